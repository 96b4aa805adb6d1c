// The figure of the nodes: how many stacks are on each, and how many more it takes.

/** @import { Stack } from "./stack.js" */

import { h } from "../shared/dom.js";
import { bar, big, numbers } from "./bar.js";

/**
 * The stacks of a node: those that take room, and those that went with it.
 *
 * @typedef {{ there: number, lost: number }} Load
 */

/**
 * What is on each node.
 *
 * @param {Iterable<Stack>} stacks
 */
export function loads(stacks) {
  /** @type {Map<string, Load>} */
  const found = new Map();
  for (const { node_id: node, status, ended } of stacks) {
    if (!node) continue;
    const load = found.get(node) ?? { there: 0, lost: 0 };
    found.set(node, load);
    if (status === "node_deleted") load.lost += 1;
    else if (!ended && status !== "stopped") load.there += 1;
  }
  return found;
}

/**
 * The figure; `free` is how many more each node takes that takes any, or null where that is not known.
 *
 * @param {Map<string, Load>} found
 * @param {Record<string, number> | null} free
 */
export function nodesFigure(found, free) {
  const here = [...found].filter(([, { there, lost }]) => there || lost).map(([name]) => name);
  const names = [...new Set([...Object.keys(free ?? {}), ...here])].sort();
  const rows = names.map((name) =>
    node(name, found.get(name) ?? { there: 0, lost: 0 }, free && (free[name] ?? null), !free),
  );
  const count = free && Object.keys(free).length;
  const list = { class: "nodes", tabindex: rows.length > 4 ? "0" : null, "aria-label": "Nodes" };
  return [
    count === null ? h("h3", {}, "Nodes") : big(count, count === 1 ? " node takes stacks" : " nodes take stacks"),
    rows.length ? h("ul", list, rows) : h("p", { class: "quiet" }, count === null ? "unknown" : "none"),
  ];
}

/**
 * One node. There is a bar only where it is known how much the node takes: what is not known has no length.
 *
 * @param {string} name
 * @param {Load} load
 * @param {number | null} free
 * @param {boolean} unknown
 */
function node(name, { there, lost }, free, unknown) {
  const state = unknown ? "room unknown" : there ? "takes no more" : "gone";
  const words = free === null ? state : `room for ${free} more`;
  const said = `${name}: ${there || !lost ? `${there} stacks` : `${lost} stacks lost`}, ${words}`;
  const parts = [
    { size: there, kind: "used" },
    { size: free ?? 0, kind: "free" },
  ];
  return h(
    "li",
    { title: said },
    h("span", { class: "name" }, name),
    free === null ? h("span", { class: "quiet state" }, state) : bar(parts, there + free, said),
    h("span", { class: "num", "aria-hidden": free === null ? null : "true" }, numbers.format(there || lost)),
  );
}
