// Which columns the table has, and in which order: what people call their stacks by comes first, ids come last.

/** @import { Stacks } from "./stacks.js" */

export const LABEL = "label:";
const LEADING = 3; // so many labels are columns
const BOX = 44;
const PHONE = 680;
/** The least width in pixels, and the share of what is left over. @type {Record<string, [number, number]>} */
const NEEDS = {
  label: [100, 1],
  status: [180, 4],
  address: [186, 0.2],
  node: [100, 1.2],
  age: [84, 0.1],
  left: [100, 0.1],
  labels: [190, 1.6],
  id: [212, 0.1],
};
const FIRST_TO_GO = ["labels", "node", "id", "age"];

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
    stacks.subscribe(() => this.#look());
  }

  get names() {
    return this.#names;
  }

  /**
   * The columns of a table of this width, each with its own width: a narrow one leaves some out. A phone has cards:
   * nothing is left out, and nothing has a width.
   *
   * @param {number} width
   * @returns {Map<string, number | null>}
   */
  fit(width) {
    const leading = this.#names.slice(0, LEADING).map((name) => LABEL + name);
    const others = Object.keys(HEADS).filter((key) => key !== "labels" || this.#names.length > LEADING);
    let shown = [...leading, ...others];
    if (width <= PHONE) return new Map(shown.map((key) => [key, null]));
    for (const key of [...FIRST_TO_GO, ...leading.slice(1).reverse()]) {
      if (sum(shown, 0) + BOX <= width) break;
      shown = shown.filter((each) => each !== key);
    }
    const over = (width - BOX - sum(shown, 0)) / sum(shown, 1);
    return new Map(shown.map((key) => [key, needOf(key)[0] + over * needOf(key)[1]]));
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
 * @param {string[]} keys
 * @param {0 | 1} which
 */
function sum(keys, which) {
  return keys.reduce((whole, key) => whole + needOf(key)[which], 0);
}

/**
 * @param {string} key
 * @returns {[number, number]}
 */
function needOf(key) {
  return NEEDS[key.startsWith(LABEL) ? "label" : key] ?? [104, 1];
}
