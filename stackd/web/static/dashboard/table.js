// The table: of thousands of stacks, only the rows that can be seen are in the page.
//
// The document scrolls, not a box in it. Rows have one height; empty rows above and below stand for the others.

import { fill, h } from "../shared/dom.js";
import { Row } from "./row.js";

const BEYOND = 8;
const HEADS = [
  ["status", "Status"],
  ["id", "Stack"],
  ["address", "Address"],
  ["node", "Node"],
  ["age", "Age"],
  ["left", "Time left"],
  ["labels", "Labels"],
];

export class Table {
  #rows = new Map();
  #shown = [];
  #places = new Map();
  #scheduled = false;
  active = null;
  opened = null;

  constructor(table, stacks, selection, actions) {
    this.table = table;
    this.body = table.tBodies[0];
    this.stacks = stacks;
    this.selection = selection;
    this.actions = actions;
    this.above = h("tr", { role: "presentation", "aria-hidden": "true", class: "spacer" }, h("td", { role: "presentation" }));
    this.below = this.above.cloneNode(true);
    this.body.append(this.above, this.below);
    this.#head();
    stacks.subscribe(() => this.#changed());
    selection.subscribe(() => this.render());
    for (const name of ["scroll", "resize"]) {
      addEventListener(name, () => this.#schedule(), { passive: true });
    }
    this.body.addEventListener("focusin", (event) => {
      const id = event.target.closest("tr")?.dataset.id;
      if (id && id !== this.active) this.#activate(id);
    });
    setInterval(() => this.#tick(), 1000);
  }

  /** Move the active row by so many places, or to the first one; it gets the focus. */
  move(by) {
    if (!this.#shown.length) return;
    const place = this.#places.get(this.active);
    const first = Math.min(this.#shown.length - 1, Math.max(0, this.#firstSeen()));
    const next = place === undefined ? first : Math.min(this.#shown.length - 1, Math.max(0, place + by));
    this.focus(this.#shown[next].stack_id);
  }

  /** Make a row the active one, scroll to it and focus it. */
  focus(id) {
    const place = this.#places.get(id);
    if (place === undefined) return;
    this.#reveal(place);
    this.#activate(id);
    this.#rows.get(id)?.element.focus({ preventScroll: true });
  }

  /** The stack whose panel is open, or null. */
  open(id) {
    this.opened = id;
    if (id) this.active = id;
    this.render();
  }

  /** All between the active row and this one, for a click with shift. */
  between(id) {
    const [from, to] = [this.#places.get(this.active), this.#places.get(id)];
    if (from === undefined || to === undefined) return [id];
    return this.#shown.slice(Math.min(from, to), Math.max(from, to) + 1).map((stack) => stack.stack_id);
  }

  /** Bring the page in line with what is to be seen. */
  render() {
    this.#scheduled = false;
    const height = this.#height();
    const first = Math.max(0, this.#firstSeen() - BEYOND);
    const last = Math.min(this.#shown.length, first + Math.ceil(innerHeight / height) + 2 * BEYOND);
    const wanted = this.#shown.slice(first, last);
    const held = this.#focused();
    // While rows come and go the page must not get shorter, or the browser scrolls to its new end.
    this.table.parentElement.style.minHeight = `${this.#shown.length * height}px`;
    this.above.firstChild.style.height = `${first * height}px`;
    this.below.firstChild.style.height = `${(this.#shown.length - last) * height}px`;
    this.#drop(new Set(wanted.map((stack) => stack.stack_id)));
    let next = this.above.nextSibling;
    wanted.forEach((stack, offset) => {
      const row = this.#row(stack, first + offset);
      if (row.element === next) next = next.nextSibling;
      else this.body.insertBefore(row.element, next);
    });
    if (held && !held.isConnected) this.table.parentElement.focus({ preventScroll: true });
    else if (held && document.activeElement !== held) held.focus({ preventScroll: true }); // it was moved, and lost it
    this.#box();
  }

  #head() {
    this.all = h("input", { type: "checkbox", "aria-label": "Select all that are shown" });
    this.all.addEventListener("click", () => {
      if (this.all.checked) this.selection.only(this.#shown.map((stack) => stack.stack_id));
      else this.selection.clear();
    });
    this.heads = HEADS.map(([name, text]) => {
      const cell = h("th", { role: "columnheader", scope: "col", class: `c-${name}` });
      if (name === "labels") return fill(cell, text);
      const button = h("button", { type: "button", class: "plain" }, text);
      button.addEventListener("click", () => this.stacks.sort(name));
      cell.append(button);
      cell.dataset.order = name;
      return cell;
    });
    const box = h("th", { role: "columnheader", scope: "col", class: "c-box" }, this.all);
    this.table.tHead.append(h("tr", { role: "row", "aria-rowindex": "1" }, box, this.heads));
  }

  #changed() {
    const height = this.#height();
    const before = this.#firstSeen();
    const anchor = before > 0 ? this.#shown[before]?.stack_id : undefined;
    this.#shown = this.stacks.shown;
    this.#places = new Map(this.#shown.map((stack, place) => [stack.stack_id, place]));
    this.table.setAttribute("aria-rowcount", String(this.#shown.length + 1));
    for (const head of this.heads) {
      const { by, down } = this.stacks.order;
      if (head.dataset.order !== by) head.removeAttribute("aria-sort");
      else head.setAttribute("aria-sort", down ? "descending" : "ascending");
    }
    this.render();
    const after = anchor === undefined ? undefined : this.#places.get(anchor);
    if (after !== undefined && after !== before) scrollBy(0, (after - before) * height); // what is read stays put
  }

  #row(stack, place) {
    let row = this.#rows.get(stack.stack_id);
    if (!row) {
      row = new Row(this.actions);
      this.#rows.set(stack.stack_id, row);
    }
    row.update(stack, place, {
      selected: this.selection.has(stack.stack_id),
      active: stack.stack_id === this.active || (this.active === null && place === 0),
      open: stack.stack_id === this.opened,
    });
    return row;
  }

  #drop(wanted) {
    for (const [id, row] of this.#rows) {
      if (wanted.has(id)) continue;
      row.element.remove();
      this.#rows.delete(id);
    }
  }

  #activate(id) {
    this.active = id;
    this.render();
  }

  #reveal(place) {
    const height = this.#height();
    const top = this.body.getBoundingClientRect().top + place * height;
    const covered = this.#covered() + 8;
    const end = innerHeight - height - 72;
    if (top < covered) scrollBy(0, top - covered);
    else if (top > end) scrollBy(0, top - end);
  }

  #firstSeen() {
    const top = this.body.getBoundingClientRect().top;
    return Math.max(0, Math.floor((this.#covered() - top) / this.#height()));
  }

  /** How much of the window's top is not the rows': the page's bar and the table's head stay where they are. */
  #covered() {
    const head = this.table.tHead;
    const style = getComputedStyle(head);
    return style.position === "sticky" ? head.offsetHeight + (Number.parseFloat(style.top) || 0) : 0;
  }

  #height() {
    return Number.parseFloat(getComputedStyle(this.table).getPropertyValue("--row")) || 44;
  }

  #focused() {
    const focused = document.activeElement;
    return focused && this.body.contains(focused) ? focused : null;
  }

  #box() {
    const chosen = this.selection.size;
    this.all.checked = chosen > 0 && chosen >= this.#shown.length;
    this.all.indeterminate = chosen > 0 && chosen < this.#shown.length;
    this.all.disabled = !this.#shown.length;
  }

  #tick() {
    if (document.hidden) return;
    for (const row of this.#rows.values()) row.tick();
  }

  #schedule() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame(() => this.render());
  }
}
