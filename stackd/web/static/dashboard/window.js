// Which rows of a long list can be seen. Rows of stacks have one height, rows of groups another. Pure.

/** @import { Stack } from "./stack.js" */

import { Group } from "./arrange.js";

export class Heights {
  /**
   * @param {(Stack | Group)[]} rows
   * @param {{ stack: number, group: number }} of
   */
  constructor(rows, of) {
    this.tops = new Float64Array(rows.length + 1);
    rows.forEach((row, place) => {
      this.tops[place + 1] = this.top(place) + (row instanceof Group ? of.group : of.stack);
    });
  }

  get count() {
    return this.tops.length - 1;
  }

  get whole() {
    return this.top(this.count);
  }

  /**
   * Where a row begins.
   *
   * @param {number} place
   */
  top(place) {
    return this.tops[place] ?? 0;
  }

  /**
   * The row at a distance from the list's beginning; the first or the last one beyond its ends.
   *
   * @param {number} distance
   */
  at(distance) {
    let [low, high] = [0, Math.max(0, this.count - 1)];
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (this.top(middle) <= distance) low = middle;
      else high = middle - 1;
    }
    return low;
  }
}
