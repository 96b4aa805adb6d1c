// The head of the table: the box that selects all, and the columns' names, by which one sorts.

/** @import { Selection } from "./selection.js" */
/** @import { Stacks } from "./stacks.js" */

import { button, fill, h } from "../shared/dom.js";
import { headOf, LABEL } from "./columns.js";

export class Head {
  #drawn = "";
  /** @type {HTMLElement[]} */
  #cells = [];

  /**
   * @param {HTMLElement} place
   * @param {Stacks} stacks
   * @param {Selection} selection
   */
  constructor(place, stacks, selection) {
    this.stacks = stacks;
    this.selection = selection;
    this.all = h("input", { type: "checkbox", "aria-label": "Select all that are shown" });
    this.all.addEventListener("click", () => {
      if (this.all.checked) selection.all();
      else selection.clear();
    });
    this.box = h("th", { role: "columnheader", scope: "col", class: "c-box" }, this.all);
    this.row = h("tr", { role: "row", "aria-rowindex": "1" });
    place.append(this.row);
  }

  /**
   * Show these columns with their widths, and by which of them the table is sorted.
   *
   * @param {Map<string, number | null>} columns
   */
  draw(columns) {
    const keys = [...columns.keys()];
    if (keys.join() !== this.#drawn) {
      this.#drawn = keys.join();
      this.#cells = keys.map((key) => this.#cell(key));
      fill(this.row, this.box, this.#cells);
    }
    for (const cell of this.#cells) {
      const width = columns.get(cell.dataset.key ?? "");
      cell.style.width = width ? `${width}px` : "";
    }
    const { by, down } = this.stacks.view.state.order;
    for (const cell of this.#cells) {
      if (cell.dataset.key !== by) cell.removeAttribute("aria-sort");
      else cell.setAttribute("aria-sort", down ? "descending" : "ascending");
    }
  }

  /** The box says whether all, some or none of what is shown is selected. */
  tick() {
    const chosen = this.selection.ids.length;
    const shown = this.stacks.shown.length;
    this.all.checked = chosen > 0 && chosen === shown;
    this.all.indeterminate = chosen > 0 && chosen < shown;
    this.all.disabled = !shown;
  }

  /** @param {string} key */
  #cell(key) {
    const kind = key.startsWith(LABEL) ? "label" : key;
    const cell = h("th", { role: "columnheader", scope: "col", class: `c-${kind}`, "data-key": key });
    const name = headOf(key);
    cell.append(
      key === "labels" ? name : button(name, () => this.stacks.view.sort(key), { class: "plain", title: name }),
    );
    return cell;
  }
}
