// Which columns the table has, and in which order: what people call their stacks by comes first, ids come last.

/** @import { Stacks } from "./stacks.js" */

import { button, fill, h } from "../shared/dom.js";
import { dialog } from "./dialogs.js";

export const LABEL = "label:";
const LEADING = 3; // so many labels are columns unless others are chosen

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

/**
 * What a column is called; a label's column by the label.
 *
 * @param {string} key
 */
export function headOf(key) {
  return HEADS[key] ?? key.slice(LABEL.length);
}

export class Columns {
  /** The labels in use; those that came first stay first, so that no column moves while stacks come and go. */
  #names = /** @type {string[]} */ ([]);

  /** @param {Stacks} stacks */
  constructor(stacks) {
    this.stacks = stacks;
    this.view = stacks.view;
    stacks.subscribe(() => this.#look());
  }

  get names() {
    return this.#names;
  }

  /** Whether somebody has chosen them. */
  get chosen() {
    return this.#chosen.length > 0;
  }

  /** The columns that are shown, in their order. */
  get shown() {
    return this.chosen ? this.#chosen : this.#usual;
  }

  /** All columns there could be: those shown first. */
  get all() {
    return [...new Set([...this.shown, ...this.#names.map((name) => LABEL + name), ...Object.keys(HEADS)])];
  }

  get #chosen() {
    const { columns } = this.view.state;
    return [...new Set(columns ?? [])].filter((key) => Object.hasOwn(HEADS, key) || key.startsWith(LABEL));
  }

  get #usual() {
    const leading = this.#names.slice(0, LEADING).map((name) => LABEL + name);
    const others = Object.keys(HEADS).filter((key) => key !== "labels" || this.#names.length > LEADING);
    return [...leading, ...others];
  }

  #look() {
    /** @type {Map<string, number>} */
    const counts = new Map();
    for (const stack of this.stacks.all.values()) {
      for (const name of Object.keys(stack.labels ?? {})) counts.set(name, (counts.get(name) ?? 0) + 1);
    }
    const kept = this.#names.filter((name) => counts.has(name));
    const fresh = [...counts.keys()].filter((name) => !kept.includes(name));
    fresh.sort((one, other) => (counts.get(other) ?? 0) - (counts.get(one) ?? 0) || (one < other ? -1 : 1));
    this.#names = [...kept, ...fresh];
  }
}

/**
 * The dialog in which columns are chosen and put in order; what is chosen is seen at once.
 *
 * @param {Columns} columns
 */
export function chooseColumns(columns) {
  const box = dialog("Columns", { class: "columns" });
  const list = h("ul", { class: "choices" });
  const { view } = columns;

  /** @param {string[]} shown */
  const choose = (shown) => {
    view.change({ columns: shown });
    draw();
  };
  /**
   * @param {string} key
   * @param {number} by
   */
  const move = (key, by) => {
    const shown = [...columns.shown];
    const place = shown.indexOf(key);
    shown.splice(place, 1);
    shown.splice(place + by, 0, key);
    choose(shown);
    const again = list.querySelector(`[data-key="${CSS.escape(key)}"] [data-by="${by}"]:enabled`);
    const other = list.querySelector(`[data-key="${CSS.escape(key)}"] button:enabled`);
    for (const found of [again ?? other]) if (found instanceof HTMLElement) found.focus();
  };
  const draw = () => {
    const { shown, all } = columns;
    fill(
      list,
      all.map((key) => {
        const place = shown.indexOf(key);
        const on = place >= 0;
        const tick = h("input", { type: "checkbox", checked: on, disabled: on && shown.length === 1 });
        tick.addEventListener("change", () => {
          choose(tick.checked ? [...shown, key] : shown.filter((each) => each !== key));
          const now = list.querySelector(`[data-key="${CSS.escape(key)}"] input`);
          if (now instanceof HTMLElement) now.focus();
        });
        const name = headOf(key);
        const up = { class: "plain", "aria-label": `Move ${name} to the left`, disabled: place < 1, "data-by": "-1" };
        const down = {
          class: "plain",
          "aria-label": `Move ${name} to the right`,
          disabled: !on || place === shown.length - 1,
          "data-by": "1",
        };
        return h(
          "li",
          { "data-key": key },
          h("label", {}, tick, name, key.startsWith(LABEL) && h("span", { class: "quiet" }, "label")),
          button("↑", () => move(key, -1), up),
          button("↓", () => move(key, 1), down),
        );
      }),
    );
  };
  draw();
  const usual = button("Usual columns", () => {
    view.change({ columns: null });
    draw();
  });
  const foot = h(
    "div",
    { class: "buttons" },
    usual,
    button("Done", () => box.close(), { class: "primary" }),
  );
  box.append(h("div", { class: "body" }, list, foot));
  box.showModal();
}
