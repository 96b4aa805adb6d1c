// What the table is made of: its head, and the rows of stacks and of groups. They are drawn from what is the case.

/** @import { Group } from "./arrange.js" */
/** @import { Selection } from "./selection.js" */
/** @import { Stack } from "./stack.js" */
/** @import { Stacks } from "./stacks.js" */
/** @import { Child } from "../shared/dom.js" */

import { button, h } from "../shared/dom.js";
import { numbers } from "./bar.js";
import { headOf, LABEL } from "./columns.js";
import { STATUSES, WORDS } from "./stack.js";
import { age, full, left, now } from "./times.js";

const SOON = 5 * 60_000;
const CARD = ["status", "address", "node", "age", "left", "labels", "id"]; // what a phone shows, whatever fits

/**
 * What the table can do: open a stack, copy an address, select a stack (with all between, after a click with shift).
 *
 * @typedef {object} TableActions
 * @property {(id: string) => void} open
 * @property {(address: string) => void} copy
 * @property {(id: string, on: boolean, many: boolean) => void} select
 *
 * What is drawn: the columns that fit with their widths, and the stack that the keys are at.
 * @typedef {object} Look
 * @property {Stacks} stacks
 * @property {Selection} selection
 * @property {Map<string, number | null>} columns
 * @property {string | null} active
 * @property {string | null} opened
 * @property {TableActions} actions
 */

/**
 * The box that selects all, and the columns' names, by which one sorts.
 *
 * @param {Look} look
 */
export function headRow({ stacks, selection, columns }) {
  const { view, shown } = stacks;
  const all = checkbox("Select all that are shown", selection.ids.length, shown.length, (on) => {
    if (on) selection.all();
    else selection.clear();
  });
  all.disabled = !shown.length;
  const { by, down } = view.state.order;
  const cells = [...columns].map(([key, width]) => {
    const name = headOf(key);
    const cell = h(
      "th",
      {
        role: "columnheader",
        scope: "col",
        class: `c-${kindOf(key)}`,
        "data-key": key,
        "aria-sort": key === by && (down ? "descending" : "ascending"),
      },
      key === "labels" ? name : button(name, () => view.sort(key), { class: "plain", title: name }),
    );
    cell.style.width = width ? `${width}px` : "";
    return cell;
  });
  return h(
    "tr",
    { role: "row", "aria-rowindex": "1" },
    h("th", { role: "columnheader", scope: "col", class: "c-box" }, all),
    cells,
  );
}

/**
 * The row of a stack at a place of the list.
 *
 * @param {Stack} stack
 * @param {number} place
 * @param {Look} look
 */
export function stackRow(stack, place, { stacks, selection, columns, active, opened, actions }) {
  const { stack_id: id, address, created_at: created, ttl_expires_at: end } = stack;
  const selected = selection.has(id);
  const at = id === active || (active === null && stack === stacks.shown[0]);
  const tabindex = at ? "0" : "-1";
  const box = h("input", {
    type: "checkbox",
    tabindex,
    "aria-label": `Select ${id}`,
    click: (event) => {
      event.stopPropagation();
      if (event.target instanceof HTMLInputElement) actions.select(id, event.target.checked, event.shiftKey);
    },
  });
  box.checked = selected;
  const copied = button(
    address || "no address",
    (event) => {
      event.stopPropagation();
      actions.copy(address);
    },
    {
      class: "plain mono address",
      tabindex,
      disabled: !address,
      "aria-label": address ? `Copy ${address}` : "no address",
    },
  );
  const labels = Object.entries(stack.labels ?? {}).flatMap(([name, value]) => [
    h("span", { class: columns.has(LABEL + name) && "own" }, h("span", { class: "name" }, `${name}=`), value),
    " ",
  ]);
  const more = stack.addresses.length > 1 ? `+${stack.addresses.length - 1}` : "";
  /** @type {Record<string, Child>} */
  const contents = {
    status: [
      h("span", { class: "status" }, WORDS[stack.status] ?? stack.status),
      h("span", { class: "reason", title: stack.status_message || null }, stack.status_reason ?? ""),
    ],
    id: h("span", { class: "mono id" }, id),
    address: [copied, h("span", { class: "quiet more" }, more)],
    node: h("span", { class: "node" }, stack.node_id ?? "–"),
    age: h("span", { class: "num", title: `created ${full(created)}` }, age(created)),
    left: h(
      "span",
      { class: ["num left", Date.parse(end) - now() < SOON && "soon"], title: `expires ${full(end)}` },
      left(end),
    ),
    labels: h("span", { class: "labels", title: stack.labelled.join("\n") }, labels),
  };
  const cells = [...columns.keys()].map((key) => {
    if (!key.startsWith(LABEL)) return cell(`c-${key}`, contents[key]);
    const value = stack.labels?.[key.slice(LABEL.length)] ?? "";
    return cell("c-label", h("span", { title: value && `${key.slice(LABEL.length)}=${value}` }, value));
  });
  const off = CARD.filter((key) => !columns.has(key)).map((key) => cell(`c-${key} off`, contents[key]));
  return h(
    "tr",
    {
      role: "row",
      class: [selected && "selected", at && "active", id === opened && "open"],
      tabindex,
      "aria-rowindex": place + 2,
      "aria-selected": String(selected),
      "data-key": id,
      "data-id": id,
      "data-status": stack.status,
      click: (event) => {
        if (event.target instanceof Element && !event.target.closest(".c-box")) actions.open(id);
      },
    },
    cell("c-box", box),
    cells,
    off,
  );
}

/**
 * The row above the stacks of a group: what they have in common, how many they are and how they are.
 *
 * @param {Group} group
 * @param {number} place
 * @param {Look} look
 */
export function groupRow({ value, closed, stacks: members }, place, { stacks, selection, columns }) {
  const { view } = stacks;
  const name = nameOf(view.state.group, value);
  const ids = members.map((stack) => stack.stack_id);
  const chosen = closed ? 0 : ids.filter((id) => selection.has(id)).length;
  const box = checkbox(`Select all of ${name}`, chosen, ids.length, (on) => selection.set(ids, on));
  box.disabled = closed; // nobody sees what it would select
  const toggle = h(
    "button",
    { type: "button", class: "plain", "aria-expanded": String(!closed), click: () => view.toggleGroup(value) },
    h("span", {}, name),
  );
  const counts = STATUSES.map((status) => {
    const count = members.filter((stack) => stack.status === status).length;
    const dot = h("span", { class: "dot", "aria-hidden": "true" });
    return count > 0 && h("span", { "data-status": status }, dot, numbers.format(count), word(WORDS[status]));
  });
  const all = h("span", {}, numbers.format(ids.length), word(ids.length === 1 ? "stack" : "stacks"));
  return h(
    "tr",
    { role: "row", class: "group", "aria-rowindex": place + 2, "data-key": `group ${value}`, "data-group": value },
    cell("c-box", box),
    h(
      "td",
      { role: "gridcell", class: "c-group", colspan: columns.size },
      h("div", {}, toggle, h("span", { class: "counts" }, all, counts)),
    ),
  );
}

/**
 * An empty row, as high as the rows that it stands for.
 *
 * @param {string} key
 * @param {number} height
 */
export function spacer(key, height) {
  const space = h("td", { role: "presentation" });
  space.style.height = `${height}px`;
  return h("tr", { role: "presentation", "aria-hidden": "true", class: "spacer", "data-key": key }, space);
}

/**
 * A box that says whether all, some or none are selected.
 *
 * @param {string} name
 * @param {number} chosen
 * @param {number} all
 * @param {(on: boolean) => void} clicked
 */
function checkbox(name, chosen, all, clicked) {
  const box = h("input", {
    type: "checkbox",
    "aria-label": name,
    click: ({ target }) => target instanceof HTMLInputElement && clicked(target.checked),
  });
  box.checked = chosen > 0 && chosen === all;
  box.indeterminate = chosen > 0 && chosen < all;
  return box;
}

/**
 * @param {string} name
 * @param {Child} content
 */
function cell(name, content) {
  return h("td", { role: "gridcell", class: name }, content);
}

/** @param {string} key */
function kindOf(key) {
  return key.startsWith(LABEL) ? "label" : key;
}

/**
 * @param {string} by
 * @param {string} value
 */
function nameOf(by, value) {
  if (by === "status") return STATUSES.map((status) => (status === value ? WORDS[status] : "")).join("") || value;
  return value ? `${headOf(by)} ${value}` : `no ${headOf(by).toLowerCase()}`;
}

/**
 * What a number counts; a phone has no room for it.
 *
 * @param {string} text
 */
function word(text) {
  return h("span", { class: "word" }, text);
}
