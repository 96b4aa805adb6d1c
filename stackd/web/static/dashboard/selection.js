// Which stacks are selected, for deleting many.
//
// What is selected and no longer shown stays selected, is counted apart, and is out of reach until it is shown again:
// nothing can be done to stacks that nobody sees.

/** @import { Stacks } from "./stacks.js" */

export class Selection {
  /** @type {Set<string>} */
  #ids = new Set();
  /** @type {Set<() => void>} */
  #listeners = new Set();

  /** @param {Stacks} stacks */
  constructor(stacks) {
    this.stacks = stacks;
    stacks.subscribe(() => this.#update());
  }

  /** @param {() => void} listener */
  subscribe(listener) {
    this.#listeners.add(listener);
  }

  /** The selected stacks that are shown, in the order of the table. */
  get ids() {
    return this.stacks.shown.map((stack) => stack.stack_id).filter((id) => this.#ids.has(id));
  }

  /** How many are selected and not shown: for the filter, and for a closed group. */
  get hidden() {
    const unseen = [...this.#ids].filter((id) => !this.stacks.isShown(id));
    const closed = unseen.filter((id) => this.stacks.isClosed(id)).length;
    return { filtered: unseen.length - closed, closed, all: unseen.length };
  }

  /** @param {string} id */
  has(id) {
    return this.#ids.has(id);
  }

  /**
   * Select stacks, or no longer, as far as they are shown.
   *
   * @param {string[]} ids
   * @param {boolean} on
   */
  set(ids, on) {
    for (const id of ids) {
      if (!this.stacks.isShown(id)) continue;
      if (on) this.#ids.add(id);
      else this.#ids.delete(id);
    }
    this.#tell();
  }

  /** Select all that are shown, and no others. */
  all() {
    this.#ids = new Set(this.stacks.shown.map((stack) => stack.stack_id));
    this.#tell();
  }

  /**
   * Select these no longer.
   *
   * @param {Iterable<string>} ids
   */
  drop(ids) {
    for (const id of ids) this.#ids.delete(id);
    this.#tell();
  }

  clear() {
    if (!this.#ids.size) return;
    this.#ids.clear();
    this.#tell();
  }

  /** Forget what is gone; what is shown may have changed. */
  #update() {
    if (!this.#ids.size) return;
    for (const id of this.#ids) if (!this.stacks.get(id)) this.#ids.delete(id);
    this.#tell();
  }

  #tell() {
    for (const listener of this.#listeners) listener();
  }
}
