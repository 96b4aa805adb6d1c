// How wide the columns are, and which of them a narrow table leaves out. Pure.

import { LABEL } from "./columns.js";

const BOX = 44;
const PHONE = 680; // cards instead of rows: nothing is left out, and nothing has a width
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

/**
 * The columns that a table of this width shows, each with its own width. Those that somebody has chosen stay, and share
 * what there is.
 *
 * @param {string[]} keys
 * @param {number} width
 * @param {boolean} chosen
 * @returns {Map<string, number | null>}
 */
export function fit(keys, width, chosen) {
  if (width <= PHONE) return new Map(keys.map((key) => [key, null]));
  const shown = chosen ? keys : trimmed(keys, width);
  const least = sum(shown, 0) + BOX;
  const over = width - least;
  const shares = sum(shown, 1);
  return new Map(
    shown.map((key) => {
      const [own, share] = needOf(key);
      return [key, over >= 0 ? own + (over * share) / shares : (own * (width - BOX)) / (least - BOX)];
    }),
  );
}

/**
 * @param {string[]} keys
 * @param {number} width
 */
function trimmed(keys, width) {
  const labels = keys.filter((key) => key.startsWith(LABEL));
  const going = [...FIRST_TO_GO, ...labels.slice(1).reverse()];
  let shown = keys;
  for (const key of going) {
    if (sum(shown, 0) + BOX <= width) break;
    shown = shown.filter((each) => each !== key);
  }
  return shown;
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
