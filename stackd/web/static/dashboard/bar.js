// A number's drawing and its text.

import { h } from "../shared/dom.js";

export const numbers = new Intl.NumberFormat();

/**
 * A bar of parts of a whole; it is drawn, and said in words to a screen reader.
 *
 * @param {{ size: number, kind: string }[]} parts
 * @param {number} whole
 * @param {string} words
 */
export function bar(parts, whole, words) {
  const drawn = h("div", { class: "chart", role: "img", "aria-label": words });
  for (const { size, kind } of parts) {
    if (!size) continue;
    const part = h("span", { class: `part ${kind}` });
    part.style.width = `${Math.max(0.5, (100 * size) / Math.max(1, whole))}%`;
    drawn.append(part);
  }
  return drawn;
}

/** What stands in the place of something that is not known yet. */
export function bone(kind = "line") {
  return h("span", { class: `bone ${kind}`, "aria-hidden": "true" });
}

/**
 * A number, and what it counts.
 *
 * @param {number} count
 * @param {string} what
 */
export function big(count, what) {
  return h("h3", {}, h("b", { class: "big" }, numbers.format(count)), what);
}
