// The table: of thousands of stacks, only the rows that can be seen are in the page.
//
// The document scrolls, not a box in it. Empty rows above and below stand for those that are not in the page.

/** @import { Columns } from "./columns.js" */
/** @import { TableActions } from "./rows.js" */
/** @import { Selection } from "./selection.js" */
/** @import { Stack } from "./stack.js" */
/** @import { Stacks } from "./stacks.js" */

import { show } from "../shared/dom.js";
import { Group } from "./arrange.js";
import { groupRow, headRow, spacer, stackRow } from "./rows.js";
import { Heights } from "./window.js";

const BEYOND = 8;
const GAP = 8;
const BORDERS = 2;

export class Table {
  /** @type {(Stack | Group)[]} */
  #rows = [];
  /** @type {Map<string, number>} */
  #places = new Map();
  #heights = new Heights([], { stack: 0, group: 0 });
  /** The columns that fit, with their widths. @type {Map<string, number | null>} */
  columns = new Map();
  #scheduled = false;
  /** @type {string | null} */
  active = null;
  /** @type {string | null} */
  opened = null;
  /** @type {string | null} */
  anchor = null;

  /**
   * @param {HTMLTableElement} table
   * @param {Stacks} stacks
   * @param {Selection} selection
   * @param {Columns} usual
   * @param {TableActions} actions
   */
  constructor(table, stacks, selection, usual, actions) {
    this.table = table;
    this.body = table.createTBody();
    this.head = table.createTHead();
    for (const part of [this.head, this.body]) part.setAttribute("role", "rowgroup");
    this.stacks = stacks;
    this.selection = selection;
    this.usual = usual;
    this.actions = actions;
    this.frame = table.parentElement ?? table;
    stacks.subscribe(() => this.#changed());
    selection.subscribe(() => this.render());
    for (const name of ["scroll", "resize"]) {
      addEventListener(name, () => this.#schedule(), { passive: true });
    }
    new ResizeObserver(() => this.render()).observe(this.frame);
    matchMedia("(max-width: 680px)").addEventListener("change", () => this.#changed()); // cards have another height
    this.body.addEventListener("focusin", (event) => {
      const id = event.target instanceof Element && event.target.closest("tr")?.dataset.id;
      if (id && id !== this.active) this.#activate(id);
    });
    setInterval(() => document.hidden || this.render(), 1000); // ages
  }

  /**
   * Move the active row by so many places, or to the first one that is seen; it gets the focus.
   *
   * @param {1 | -1} by
   */
  move(by) {
    const place = this.#places.get(this.active ?? "");
    let next = place === undefined ? this.#firstSeen() : place + by;
    while (this.#rows[next] instanceof Group) next += place === undefined ? 1 : by;
    const row = this.#rows[next];
    const id = row && !(row instanceof Group) ? row.stack_id : this.active;
    if (id) this.focus(id);
  }

  /**
   * Make a row the active one, scroll to it and focus it.
   *
   * @param {string} id
   */
  focus(id) {
    const place = this.#places.get(id);
    if (place === undefined) return;
    this.#reveal(place);
    this.#activate(id);
    const row = this.body.querySelector(`[data-id="${CSS.escape(id)}"]`);
    if (row instanceof HTMLElement) row.focus({ preventScroll: true });
  }

  /**
   * The stack whose panel is open, or null.
   *
   * @param {string | null} id
   */
  open(id) {
    this.opened = id;
    if (id) this.active = id;
    this.render();
  }

  /**
   * All between the row that was selected last and this one, for a click with shift.
   *
   * @param {string} id
   */
  between(id) {
    const [from, to] = [this.#places.get(this.anchor ?? ""), this.#places.get(id)];
    if (from === undefined || to === undefined) return [id];
    const rows = this.#rows.slice(Math.min(from, to), Math.max(from, to) + 1);
    return rows.flatMap((row) => (row instanceof Group ? [] : [row.stack_id]));
  }

  /** Bring the page in line with what is to be seen. */
  render() {
    this.#scheduled = false;
    const heights = this.#heights;
    const from = this.#firstSeen();
    const first = Math.max(0, from - BEYOND);
    const last = Math.min(heights.count, heights.at(heights.top(from) + innerHeight) + 1 + BEYOND);
    const rows = this.#rows.slice(first, last);
    const held = this.#focused();
    const width = this.frame.clientWidth - BORDERS;
    if (width > 0) this.columns = this.usual.fit(width);
    show(this.head, headRow(this));
    // While rows come and go the page must not get shorter, or the browser scrolls to its new end.
    this.frame.style.minHeight = `${heights.whole}px`;
    show(
      this.body,
      spacer("above", heights.top(first)),
      rows.map((row, offset) =>
        row instanceof Group ? groupRow(row, first + offset, this) : stackRow(row, first + offset, this),
      ),
      spacer("below", heights.whole - heights.top(last)),
    );
    if (held && !held.isConnected) this.frame.focus({ preventScroll: true });
  }

  #changed() {
    const before = this.#firstSeen();
    const anchor = before > 0 ? this.#rows[before] : undefined;
    const within = this.#heights.top(before);
    this.#rows = this.stacks.rows;
    this.#places = new Map(this.#rows.map((row, place) => [keyOf(row), place]));
    this.#heights = new Heights(this.#rows, { stack: this.#length("--row"), group: this.#length("--group") });
    this.table.setAttribute("aria-rowcount", String(this.#rows.length + 1));
    this.render();
    const after = anchor && this.#places.get(keyOf(anchor));
    if (after !== undefined && after !== before) scrollBy(0, this.#heights.top(after) - within); // what is read stays put
  }

  /** @param {string} id */
  #activate(id) {
    this.active = id;
    this.render();
  }

  /** @param {number} place */
  #reveal(place) {
    const top = this.body.getBoundingClientRect().top + this.#heights.top(place);
    const height = this.#heights.top(place + 1) - this.#heights.top(place);
    const covered = this.#covered() + GAP;
    const end = innerHeight - this.#foot() - height - GAP;
    if (top < covered) scrollBy(0, top - covered);
    else if (top > end) scrollBy(0, top - end);
  }

  #firstSeen() {
    return this.#heights.at(this.#covered() - this.body.getBoundingClientRect().top);
  }

  /** How much of the window's top is not the rows': the page's bar and the table's head stay where they are. */
  #covered() {
    const style = getComputedStyle(this.head);
    return style.position === "sticky" ? this.head.offsetHeight + (Number.parseFloat(style.top) || 0) : 0;
  }

  /** How much of the window's end is the bar of the selection. */
  #foot() {
    return Number.parseFloat(getComputedStyle(document.body).getPropertyValue("--foot")) || 0;
  }

  /** @param {"--row" | "--group"} name */
  #length(name) {
    return Number.parseFloat(getComputedStyle(this.table).getPropertyValue(name)) || 44;
  }

  #focused() {
    const focused = document.activeElement;
    return focused instanceof HTMLElement && this.body.contains(focused) ? focused : null;
  }

  #schedule() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame(() => this.render());
  }
}

/** @param {Stack | Group} row */
function keyOf(row) {
  return row instanceof Group ? `group ${row.value}` : row.stack_id;
}
