// The row above the stacks of a group: what they have in common, how many they are and how they are.

/** @import { Group } from "./arrange.js" */

import { button, fill, h, say } from "../shared/dom.js";
import { numbers } from "./bar.js";
import { headOf } from "./columns.js";
import { STATUSES, WORDS } from "./stack.js";

/**
 * What a group's row can do: close and open the group, select its stacks.
 *
 * @typedef {object} GroupActions
 * @property {(value: string) => void} toggle
 * @property {(ids: string[], on: boolean) => void} selectMany
 */

export class GroupRow {
  /** @type {Group | null} */
  #group = null;
  #index = -1;
  #drawn = "";

  /** @param {GroupActions} actions */
  constructor(actions) {
    this.box = h("input", { type: "checkbox" });
    this.box.addEventListener("click", () => {
      if (this.#group)
        actions.selectMany(
          this.#group.stacks.map((stack) => stack.stack_id),
          this.box.checked,
        );
    });
    this.name = h("span");
    this.toggle = button("", () => this.#group && actions.toggle(this.#group.value), { class: "plain" });
    this.toggle.append(this.name);
    this.counts = h("span", { class: "counts" });
    this.wide = h("td", { role: "gridcell", class: "c-group" }, h("div", {}, this.toggle, this.counts));
    const box = h("td", { role: "gridcell", class: "c-box" }, this.box);
    this.element = h("tr", { role: "row", class: "group" }, box, this.wide);
  }

  /**
   * Show a group at a place of the list.
   *
   * @param {Group} group
   * @param {number} index
   * @param {{ by: string, columns: number, selected: number }} state
   */
  update(group, index, { by, columns, selected }) {
    this.#group = group;
    const { value, closed, stacks } = group;
    if (index !== this.#index) {
      this.#index = index;
      this.element.setAttribute("aria-rowindex", String(index + 2));
    }
    this.box.checked = !closed && selected === stacks.length;
    this.box.indeterminate = !closed && selected > 0 && selected < stacks.length;
    this.box.disabled = closed; // nobody sees what it would select
    const statuses = STATUSES.map((status) => stacks.filter((stack) => stack.status === status).length);
    const drawn = JSON.stringify([value, by, closed, statuses, columns]);
    if (drawn === this.#drawn) return;
    this.#drawn = drawn;
    const name = nameOf(by, value);
    this.wide.colSpan = columns;
    this.element.dataset.group = value;
    this.box.setAttribute("aria-label", `Select all of ${name}`);
    this.toggle.setAttribute("aria-expanded", String(!closed));
    say(this.name, name);
    const each = STATUSES.map((status, place) => {
      const count = statuses[place] ?? 0;
      const dot = h("span", { class: "dot", "aria-hidden": "true" });
      return count > 0 && h("span", { "data-status": status }, dot, numbers.format(count), word(WORDS[status]));
    });
    const all = h("span", {}, numbers.format(stacks.length), word(stacks.length === 1 ? "stack" : "stacks"));
    fill(this.counts, all, each);
  }
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
