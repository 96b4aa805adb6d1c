// The stacks as last received, and which of them are shown. Knows nothing of the page.

/** @import { Stack, StackData, Values } from "./stack.js" */
/** @import { Group } from "./arrange.js" */
/** @import { View } from "./view.js" */

import { arrange } from "./arrange.js";
import { isOlder, prepare } from "./stack.js";

export class Stacks {
  /** @type {Map<string, Stack>} */
  #all = new Map();
  /** What was generated for the stacks that were created here; no later answer has it. @type {Map<string, Values>} */
  #values = new Map();
  /** @type {Set<() => void>} */
  #listeners = new Set();
  /** @type {number | null} */
  #pending = null;
  /** The rows of the table: stacks, and groups of them. @type {(Stack | Group)[]} */
  rows = [];
  /** The stacks among them. @type {Stack[]} */
  shown = [];
  /** @type {Set<string>} */
  #visible = new Set();
  /** @type {Set<string>} */
  #closed = new Set();
  arrived = false;

  /** @param {View} view */
  constructor(view) {
    this.view = view;
    view.subscribe(() => this.flush());
  }

  /**
   * Call the listener after each frame in which something changed, and at once when the view has.
   *
   * @param {() => void} listener
   */
  subscribe(listener) {
    this.#listeners.add(listener);
  }

  get all() {
    return this.#all;
  }

  /** @param {string} id */
  get(id) {
    return this.#all.get(id);
  }

  /** @param {StackData[]} stacks */
  replace(stacks) {
    this.#all = new Map(stacks.map((stack) => [stack.stack_id, prepare(stack)]));
    this.arrived = true;
    this.changed();
  }

  /**
   * Take in a stack as received; one that is older than the known one is ignored.
   *
   * @param {StackData} stack
   */
  put(stack) {
    if (stack.values) this.#values.set(stack.stack_id, stack.values);
    const known = this.#all.get(stack.stack_id);
    if (known && isOlder(stack.updated_at, known.updated_at)) return;
    this.#all.set(stack.stack_id, prepare(stack));
    this.changed();
  }

  /** @param {string} id */
  valuesOf(id) {
    return this.#values.get(id);
  }

  /** @param {string} id */
  remove(id) {
    if (this.#all.delete(id)) this.changed();
  }

  clear() {
    this.#all = new Map();
    this.#values.clear();
    this.arrived = false;
    this.changed();
  }

  /**
   * Whether a stack is among those that are shown.
   *
   * @param {string} id
   */
  isShown(id) {
    return this.#visible.has(id);
  }

  /**
   * Whether a stack is in a group that is closed.
   *
   * @param {string} id
   */
  isClosed(id) {
    return this.#closed.has(id);
  }

  /** How many stacks the filter leaves. */
  get matching() {
    return this.#visible.size + this.#closed.size;
  }

  /** Tell everybody once, with the next frame; a burst of events is one change. */
  changed() {
    this.#pending ??= requestAnimationFrame(() => {
      this.#pending = null;
      this.flush();
    });
  }

  flush() {
    const { rows, shown, closed } = arrange(this.#all.values(), this.view.state);
    this.rows = rows;
    this.shown = shown;
    this.#visible = idsOf(shown);
    this.#closed = idsOf(closed);
    for (const listener of this.#listeners) listener();
  }
}

/** @param {Stack[]} stacks */
function idsOf(stacks) {
  return new Set(stacks.map((stack) => stack.stack_id));
}
