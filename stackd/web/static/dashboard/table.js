// The table: of thousands of stacks, only the rows that can be seen are in the page.
//
// The document scrolls, not a box in it. Empty rows above and below stand for those that are not in the page.

/** @import { Selection } from "./bulk.js" */
/** @import { Stack, Stacks } from "./stacks.js" */

import { button, h, memo, numbers, quiet, show } from "../shared/dom.js";
import { Group, LABEL, STATUSES } from "./arrange.js";
import { WORDS } from "./stacks.js";
import { full, left, length, now } from "./times.js";
import { expiresSoon, guideOf, KINDS, kindOf, wordsOf } from "./trouble.js";

const LEADING = 3; // so many labels are columns
const BEYOND = 8;
const GAP = 8;
const READS = 60_000; // for so long after somebody has touched the page, it is being read
/** @type {Record<string, string>} */
const HEADS = {
  status: "Status",
  address: "Address",
  node: "Node",
  age: "Age",
  left: "Time left",
  labels: "Labels",
  id: "Stack",
};
/** @type {Record<string, string>} */
const NAMES = { ...HEADS, template: "Template", player: "Player" };

/** What a column, or what is grouped by, is called. @param {string} key */
export const headOf = (key) => NAMES[key] ?? key.slice(LABEL.length);

/** What the stacks of a group have in common. @param {string} by @param {string} value */
export function groupName(by, value) {
  if (by === "status") return WORDS[/** @type {keyof WORDS} */ (value)] ?? value;
  return value ? `${headOf(by)} ${value}` : `no ${headOf(by).toLowerCase()}`;
}

/**
 * What the table can do: copy an address, and select a stack (with all between, after a click with shift).
 *
 * @typedef {{ copy: (address: string) => void, select: (id: string, on: boolean, many: boolean) => void }} TableActions
 */
export class Table {
  /** @type {(Stack | Group)[]} */
  #rows = [];
  /** @type {Map<string, number>} */
  #places = new Map();
  /** Where each row begins, and where the last one ends. */
  #tops = new Float64Array(1);
  #scheduled = false;
  /** @type {string | null} */
  active = null;
  /** @type {string | null} */
  opened = null;
  /** @type {string | null} */
  anchor = null;

  /** @param {HTMLTableElement} table @param {Stacks} stacks @param {Selection} selection @param {TableActions} actions */
  constructor(table, stacks, selection, actions) {
    this.table = table;
    this.body = table.createTBody();
    this.head = table.createTHead();
    for (const part of [this.head, this.body]) part.setAttribute("role", "rowgroup");
    this.stacks = stacks;
    this.selection = selection;
    this.actions = actions;
    this.frame = table.parentElement ?? table;
    let touched = performance.now(); // the row that is meant was chosen before the hand moves
    const isUsed = () => this.body.matches(":hover, :focus-within") || performance.now() - touched < READS;
    stacks.isRead = () => !document.hidden && isUsed();
    for (const name of ["pointermove", "pointerdown", "keydown", "scroll"])
      addEventListener(name, () => (touched = performance.now()), { passive: true, capture: true });
    document.addEventListener("visibilitychange", () => document.hidden && stacks.flush());
    stacks.subscribe(() => this.#changed());
    selection.subscribe(() => this.render());
    addEventListener("scroll", () => this.#schedule(), { passive: true });
    new ResizeObserver(() => this.#changed()).observe(this.frame); // cards have another height
    this.body.addEventListener("focusin", (event) => {
      const id = event.target instanceof Element && event.target.closest("tr")?.dataset.id;
      if (id && id !== this.active) this.#activate(id);
    });
    setInterval(() => document.hidden || this.#tick(), 1000);
  }

  /** Ages go on, and nobody may read the rows any more. */
  #tick() {
    if (this.stacks.view.state.players) return;
    if (this.stacks.waiting.order && !this.stacks.isRead()) this.stacks.flush();
    else this.render();
  }

  /** Move the active row by so many places, or to the first one that is seen; it gets the focus. @param {1 | -1} by */
  move(by) {
    const place = this.#places.get(this.active ?? "");
    let next = place === undefined ? this.#firstSeen() : place + by;
    while (this.#rows[next] instanceof Group) next += place === undefined ? 1 : by;
    const row = this.#rows[next];
    const id = row && !(row instanceof Group) ? row.stack_id : this.active;
    if (id) this.focus(id);
  }

  /** Focus the first stack. */
  first() {
    this.focus(this.stacks.shown.keys().next().value ?? "");
  }

  /** Make a row the active one, scroll to it and focus it. @param {string} id */
  focus(id) {
    const place = this.#places.get(id);
    if (place === undefined) return;
    this.#reveal(place);
    this.#activate(id);
    const row = this.body.querySelector(`[data-id="${CSS.escape(id)}"]`);
    if (row instanceof HTMLElement) row.focus({ preventScroll: true });
  }

  /** The stack whose panel is open, or null. @param {string | null} id */
  open(id) {
    this.opened = id;
    if (id) this.active = id;
    this.render();
  }

  /** All between the row that was selected last and this one, for a click with shift. @param {string} id */
  between(id) {
    const [from, to] = [this.#places.get(this.anchor ?? ""), this.#places.get(id)];
    if (from === undefined || to === undefined) return [id];
    const rows = this.#rows.slice(Math.min(from, to), Math.max(from, to) + 1);
    return rows.flatMap((row) => (row instanceof Group ? [] : [row.stack_id]));
  }

  /** Bring the page in line with what is to be seen. */
  render() {
    this.#scheduled = false;
    const from = this.#firstSeen();
    const first = Math.max(0, from - BEYOND);
    const last = Math.min(this.#rows.length, this.#at(this.#top(from) + innerHeight) + 1 + BEYOND);
    const focused = document.activeElement;
    const inside = focused instanceof HTMLElement && this.body.contains(focused) ? focused : null;
    const stacks = [...this.stacks.all.values()];
    const repeats = this.stacks.labels
      .slice(0, LEADING - 1)
      .some((name) => stacks.every(({ player, repeats }) => !player || repeats.includes(name)));
    const named = ["player", "template"].filter(
      (key) => stacks.some((stack) => stack[/** @type {"player"} */ (key)]) && !(repeats && key === "player"),
    );
    const labels = this.stacks.labels.slice(0, LEADING - named.length);
    const others = Object.keys(HEADS).filter((key) => key !== "labels" || this.stacks.labels.length > labels.length);
    const leading = [...named, ...labels.map((name) => LABEL + name)];
    const columns = [...leading, ...others];
    const widths = leading.map((key) => (key === "player" ? "minmax(120px, 1.6fr)" : "minmax(90px, 1fr)"));
    this.table.style.setProperty("--labels", widths.join(" "));
    this.table.style.setProperty("--more", others.includes("labels") ? "minmax(130px, 1.6fr)" : " ");
    show(this.head, this.#headRow(columns));
    // While rows come and go the page must not get shorter, or the browser scrolls to its new end.
    this.frame.style.minHeight = `${this.#top(this.#rows.length)}px`;
    show(
      this.body,
      spacer("above", this.#top(first)),
      this.#rows
        .slice(first, last)
        .map((row, offset) =>
          row instanceof Group ? this.#groupRow(row, first + offset) : this.#stackRow(row, first + offset, columns),
        ),
      spacer("below", this.#top(this.#rows.length) - this.#top(last)),
    );
    if (inside && !inside.isConnected) this.frame.focus({ preventScroll: true });
  }

  /** The box that selects all, and the columns' names, by which one sorts. @param {string[]} columns */
  #headRow(columns) {
    const { view, shown } = this.stacks;
    const chosen = this.selection.ids.length;
    const { by, down } = view.state.order;
    return memo("head", [columns.join(), by, down, chosen, shown.size], () => {
      const all = checkbox("Select all that are shown", chosen, shown.size, (on) => {
        if (on) this.selection.only([...shown.keys()]);
        else this.selection.clear();
      });
      all.disabled = !shown.size;
      const cells = columns.map((key) => {
        const sorted = key === by && (down ? "descending" : "ascending");
        const name = headOf(key);
        const content = key === "labels" ? name : button(name, () => view.sort(key), { class: "plain", title: name });
        return h("th", { role: "columnheader", scope: "col", class: classOf(key), "aria-sort": sorted }, content);
      });
      const box = h("th", { role: "columnheader", scope: "col", class: "c-box" }, h("label", {}, all));
      return h("tr", { role: "row", "aria-rowindex": "1" }, box, cells);
    });
  }

  /** @param {Stack} stack @param {number} place @param {string[]} columns */
  #stackRow(stack, place, columns) {
    const { stack_id: id, address } = stack;
    const selected = this.selection.has(id);
    const active = this.active === null ? this.stacks.shown.keys().next().value === id : this.active === id;
    const age = length(now() - stack.created);
    const rest = left(stack.expires);
    const [kind, soon] = [stack.gone ? null : kindOf(stack), expiresSoon(stack)];
    const status = stack.gone ? "gone" : stack.status;
    const inputs = [stack, place, columns.join(), selected, active, this.opened === id, age, rest, kind, soon];
    return memo(id, inputs, () => {
      const tabindex = active ? "0" : "-1";
      const until = full(stack.ttl_expires_at);
      const select = (/** @type {MouseEvent} */ { target, shiftKey }) =>
        target instanceof HTMLInputElement && this.actions.select(id, target.checked, shiftKey);
      const box = h("input", { type: "checkbox", tabindex, "aria-label": `Select ${id}`, click: select });
      box.checked = selected;
      box.disabled = Boolean(stack.gone);
      const name = address ? `Copy ${address}` : "no address";
      const look = { class: "plain mono address", tabindex, disabled: !address, "aria-label": name };
      const copied = button(address || name, () => this.actions.copy(address), look);
      const labels = Object.entries(stack.labels ?? {}).map(([name, value]) => [
        h("span", { class: columns.includes(LABEL + name) && "own" }, h("span", { class: "name" }, `${name}=`), value),
        " ",
      ]);
      const who = columns.includes("player") && h("span", { class: "own" }, `${stack.player} `);
      /** @type {Record<string, import("../shared/dom.js").Child>} */
      const contents = {
        status: [
          h("span", { class: "status", "data-status": status, "data-kind": kind }, wordOf(stack, kind)),
          " ",
          kind !== "gone" &&
            h("span", { class: "reason quiet", title: stack.status_message || null }, stack.status_reason),
        ],
        id: h("span", { class: "mono" }, id),
        address: [copied, stack.addresses.length > 1 && quiet(`+${stack.addresses.length - 1}`)],
        node: stack.node_id ?? "–",
        age: h("span", { class: "num", title: `created ${full(stack.created_at)}` }, age),
        left: h("span", { class: ["num left", soon && "soon"], title: until }, rest),
        labels: h("span", { class: "labels", title: stack.labelled.join("\n") }, who, labels),
        player: h("span", { title: stack.player }, stack.player),
        template: h("span", { title: stack.template }, stack.template),
      };
      const cells = columns.map((key) => {
        const value = stack.labels?.[key.slice(LABEL.length)] ?? "";
        return cell(classOf(key), key.startsWith(LABEL) ? h("span", { title: value }, value) : contents[key]);
      });
      const click = (/** @type {MouseEvent} */ { target }) =>
        target instanceof Element && !target.closest(".c-box, .address") && this.stacks.view.open(id);
      const state = { "aria-rowindex": place + 2, "aria-selected": String(selected), tabindex };
      const data = { "data-id": id, "data-status": status, "data-kind": kind };
      const looks = [selected && "selected", active && "active", this.opened === id && "open"];
      const card = !columns.includes("labels") && cell("c-labels card", contents.labels);
      return h(
        "tr",
        { role: "row", class: looks, ...state, ...data, click },
        cell("c-box", h("label", {}, box)),
        cells,
        card,
      );
    });
  }

  /** The row above the stacks of a group: what they have in common, and how they are. @param {Group} group @param {number} place */
  #groupRow({ value, stacks, tally }, place) {
    const { view } = this.stacks;
    const closed = view.state.closed.has(value);
    const name = groupName(view.state.group, value);
    const ids = stacks.map((stack) => stack.stack_id);
    const chosen = closed ? 0 : ids.filter((id) => this.selection.has(id)).length;
    const counts = STATUSES.map((status) => stacks.filter((stack) => stack.status === status).length);
    const { top } = tally;
    const inputs = [name, place, closed, chosen, counts.join(), top?.reason, top?.count, ids.join()];
    return memo(`group ${value}`, inputs, () => {
      const box = checkbox(`Select all of ${name}`, chosen, ids.length, (on) => this.selection.set(ids, on));
      box.disabled = closed; // nobody sees what it would select
      const toggle = button(name, () => view.toggleGroup(value), { class: "plain", "aria-expanded": String(!closed) });
      const count = (/** @type {string | null} */ status, /** @type {number} */ number, /** @type {string} */ word) =>
        h(
          "span",
          { class: "row", "data-status": status },
          status && h("span", { class: "dot", "aria-hidden": "true" }),
          numbers.format(number),
          h("span", { class: "word" }, word),
        );
      const parts = STATUSES.map((status, index) =>
        counts[index] ? count(status, counts[index], WORDS[status]) : null,
      );
      const all = count(null, ids.length, plural(ids.length));
      const why = top && reasonLink(top.stack, top.reason, top.count);
      return h(
        "tr",
        { role: "row", class: "group", "aria-rowindex": place + 2, "data-group": value },
        cell("c-box", h("label", {}, box)),
        cell("c-group", h("div", { class: "row" }, toggle, h("span", { class: "row counts" }, all, parts), why)),
      );
    });
  }

  #changed() {
    if (this.stacks.view.state.players) return; // nobody sees it
    const before = this.#firstSeen();
    const anchor = before > 0 ? this.#rows[before] : undefined;
    const within = this.#top(before);
    this.#rows = this.stacks.rows;
    this.#places = new Map(this.#rows.map((row, place) => [keyOf(row), place]));
    const style = getComputedStyle(this.table);
    const [row, group] = ["--row", "--group"].map((name) => Number.parseFloat(style.getPropertyValue(name)) || 36);
    this.#tops = new Float64Array(this.#rows.length + 1);
    this.#rows.forEach((each, place) => {
      this.#tops[place + 1] = this.#top(place) + ((each instanceof Group ? group : row) ?? 0);
    });
    this.table.setAttribute("aria-rowcount", String(this.#rows.length + 1));
    this.render();
    const after = anchor && this.#places.get(keyOf(anchor));
    if (after !== undefined && after !== before) scrollBy(0, this.#top(after) - within); // what is read stays put
  }

  /** @param {number} place */
  #top(place) {
    return this.#tops[place] ?? 0;
  }

  /** The row at a distance from the first one; the first or the last one beyond them. @param {number} distance */
  #at(distance) {
    let [low, high] = [0, Math.max(0, this.#rows.length - 1)];
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (this.#top(middle) <= distance) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  /** @param {string} id */
  #activate(id) {
    this.active = id;
    this.render();
  }

  /** @param {number} place */
  #reveal(place) {
    const top = this.body.getBoundingClientRect().top + this.#top(place);
    const foot = Number.parseFloat(getComputedStyle(document.body).getPropertyValue("--foot")) || 0;
    const covered = this.#covered() + GAP;
    const end = innerHeight - foot - (this.#top(place + 1) - this.#top(place)) - GAP;
    if (top < covered) scrollBy(0, top - covered);
    else if (top > end) scrollBy(0, top - end);
  }

  #firstSeen() {
    return this.#at(this.#covered() - this.body.getBoundingClientRect().top);
  }

  /** How much of the window's top is not the rows': bar, filters and the table's head stay where they are. */
  #covered() {
    const style = getComputedStyle(this.head);
    return style.position === "sticky" ? this.head.offsetHeight + (Number.parseFloat(style.top) || 0) : 0;
  }

  #schedule() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame(() => this.render());
  }
}

/** A reason, how many have it, and where the guide says what to do about it. @param {Stack} stack @param {string} reason @param {number} count */
export function reasonLink(stack, reason, count = 0) {
  const text = count ? `${numbers.format(count)} × ${wordsOf(reason)}` : wordsOf(reason);
  return h("a", { class: "why", href: guideOf(stack), target: "_blank", title: "What to do about it" }, text);
}

/** @param {number} count */
export const plural = (count) => (count === 1 ? "stack" : "stacks");

/** The status of a stack in a word: one that does not get its image is more than created. @param {Stack} stack @param {string | null} kind */
export function wordOf({ status, status_reason: reason, gone }, kind) {
  if (gone) return "gone";
  if (reason === "CheckFailed") return "check fails";
  if (kind === "pulling") return reason ? "cannot pull" : "still creating";
  return kind === "restarting" || kind === "unready" ? KINDS[kind] : WORDS[status];
}

/** @param {Stack | Group} row */
const keyOf = (row) => (row instanceof Group ? `group ${row.value}` : row.stack_id);
/** @param {string} key */
const classOf = (key) => (key in HEADS ? `c-${key}` : "c-label");
/** @param {string} name @param {import("../shared/dom.js").Child} content */
const cell = (name, content) => h("td", { role: "gridcell", class: name }, content);

/** An empty row, as high as the rows that it stands for. @param {string} key @param {number} height */
function spacer(key, height) {
  return memo(key, [height], () => {
    const row = h("tr", { role: "presentation", "aria-hidden": "true", class: "spacer" });
    row.style.height = `${height}px`;
    return row;
  });
}

/** A box that says whether all, some or none are selected. @param {string} name @param {number} chosen @param {number} all @param {(on: boolean) => void} clicked */
export function checkbox(name, chosen, all, clicked) {
  const click = (/** @type {MouseEvent} */ { target }) => target instanceof HTMLInputElement && clicked(target.checked);
  const box = h("input", { type: "checkbox", "aria-label": name, click });
  box.checked = chosen > 0 && chosen === all;
  box.indeterminate = chosen > 0 && chosen < all;
  return box;
}
