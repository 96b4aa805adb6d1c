// One row of the table. It is made once and changed where its stack has changed.

/** @import { Stack } from "./stack.js" */

import { button, fill, h, say } from "../shared/dom.js";
import { LABEL } from "./columns.js";
import { WORDS } from "./stack.js";
import { age, full, left, now } from "./times.js";

const SOON = 5 * 60_000;
const CARD = ["status", "address", "node", "age", "left", "labels", "id"]; // what a phone shows, whatever is chosen

/**
 * What a row can do: open its stack, copy an address, select it (with all between, after a click with shift).
 *
 * @typedef {object} RowActions
 * @property {(id: string) => void} open
 * @property {(address: string) => void} copy
 * @property {(id: string, on: boolean, many: boolean) => void} select
 */

export class Row {
  /** @type {Stack | null} */
  #stack = null;
  #index = -1;
  #state = "";
  /** The cells of labels, by the label. @type {Map<string, HTMLElement>} */
  #labels = new Map();

  /**
   * @param {RowActions} actions
   * @param {string[]} columns
   */
  constructor(actions, columns) {
    this.box = h("input", { type: "checkbox", tabindex: "-1" });
    this.status = h("span", { class: "status" });
    this.reason = h("span", { class: "reason" });
    this.id = h("span", { class: "mono id" });
    this.address = button("", (event) => this.#copy(event), { class: "plain mono address", tabindex: "-1" });
    this.more = h("span", { class: "quiet more" });
    this.node = h("span", { class: "node" });
    this.age = h("span", { class: "num" });
    this.left = h("span", { class: "num left" });
    this.labels = h("span", { class: "labels" });
    this.actions = actions;
    /** @type {Record<string, Node[]>} */
    const contents = {
      status: [this.status, this.reason],
      id: [this.id],
      address: [this.address, this.more],
      node: [this.node],
      age: [this.age],
      left: [this.left],
      labels: [this.labels],
    };
    const cells = columns.map((key) => {
      if (!key.startsWith(LABEL)) return cell(`c-${key}`, ...(contents[key] ?? []));
      const shown = cell("c-label");
      this.#labels.set(key.slice(LABEL.length), shown);
      return shown;
    });
    const others = CARD.filter((key) => !columns.includes(key));
    const off = others.map((key) => cell(`c-${key} off`, ...(contents[key] ?? [])));
    this.element = h("tr", { role: "row", tabindex: "-1" }, cell("c-box", this.box), cells, off);
    this.box.addEventListener("click", (event) => {
      event.stopPropagation();
      actions.select(this.#shown.stack_id, this.box.checked, event.shiftKey);
    });
    this.element.addEventListener("click", (event) => {
      if (event.target instanceof Element && !event.target.closest(".c-box")) actions.open(this.#shown.stack_id);
    });
  }

  /** The stack, once there is one; before that nothing can be clicked. */
  get #shown() {
    return /** @type {Stack} */ (this.#stack);
  }

  /**
   * Show a stack at a place of the list.
   *
   * @param {Stack} stack
   * @param {number} index
   * @param {{ selected: boolean, active: boolean, open: boolean }} state
   */
  update(stack, index, { selected, active, open }) {
    if (stack !== this.#stack) this.#show(stack);
    if (index !== this.#index) {
      this.#index = index;
      this.element.setAttribute("aria-rowindex", String(index + 2));
    }
    const state = `${selected}${active}${open}`;
    if (state !== this.#state) {
      this.#state = state;
      this.box.checked = selected;
      this.element.setAttribute("aria-selected", String(selected));
      this.element.tabIndex = active ? 0 : -1;
      for (const inner of [this.box, this.address]) inner.tabIndex = active ? 0 : -1;
      this.element.classList.toggle("selected", selected);
      this.element.classList.toggle("active", active);
      this.element.classList.toggle("open", open);
    }
  }

  /** What changes with the time alone. */
  tick() {
    const { created_at: created, ttl_expires_at: end } = this.#shown;
    say(this.age, age(created));
    say(this.left, left(end));
    this.left.classList.toggle("soon", Date.parse(end) - now() < SOON);
  }

  /** @param {MouseEvent} event */
  #copy(event) {
    event.stopPropagation();
    this.actions.copy(this.#shown.address);
  }

  /** @param {Stack} stack */
  #show(stack) {
    const same = this.#stack?.stack_id === stack.stack_id;
    this.#stack = stack;
    this.element.dataset.id = stack.stack_id;
    this.element.dataset.status = stack.status;
    if (!same) this.box.setAttribute("aria-label", `Select ${stack.stack_id}`);
    say(this.status, WORDS[stack.status] ?? stack.status);
    say(this.reason, stack.status_reason ?? "");
    this.reason.title = stack.status_message ?? "";
    say(this.id, stack.stack_id);
    say(this.address, stack.address || "no address");
    this.address.disabled = !stack.address;
    this.address.setAttribute("aria-label", stack.address ? `Copy ${stack.address}` : "no address");
    say(this.more, stack.addresses.length > 1 ? `+${stack.addresses.length - 1}` : "");
    say(this.node, stack.node_id ?? "–");
    const pairs = Object.entries(stack.labels ?? {}).map(([name, value]) => [
      h("span", { class: this.#labels.has(name) ? "own" : null }, h("span", { class: "name" }, `${name}=`), value),
      " ",
    ]);
    fill(this.labels, ...pairs);
    this.labels.title = stack.labelled.join("\n");
    for (const [name, shown] of this.#labels) {
      const value = stack.labels?.[name] ?? "";
      say(shown, value);
      shown.title = value && `${name}=${value}`;
    }
    this.age.title = `created ${full(stack.created_at)}`;
    this.left.title = `expires ${full(stack.ttl_expires_at)}`;
    this.tick();
  }
}

/**
 * @param {string} name
 * @param {...Node} children
 */
function cell(name, ...children) {
  return h("td", { role: "gridcell", class: name }, ...children);
}
