// Which stacks a view shows, in which order and groups. Pure.

/** @import { Stack } from "./stack.js" */
/** @import { State } from "./view.js" */

import { STATUSES } from "./stack.js";

/** @type {(stack: Stack) => number} */
const age = (stack) => -Date.parse(stack.created_at);
/** @type {Record<string, (stack: Stack) => string | number>} */
const KEYS = {
  status: (stack) => STATUSES.indexOf(stack.status),
  id: (stack) => stack.stack_id,
  address: (stack) => stack.address,
  node: (stack) => stack.node_id ?? "",
  age,
  left: (stack) => Date.parse(stack.ttl_expires_at),
};
const LABEL = "label:";
const words = new Intl.Collator("en", { numeric: true });

/** The stacks that have one value of what is grouped by; the table shows it as a row above them. */
export class Group {
  /** @type {Stack[]} */
  stacks = [];

  /**
   * @param {string} value
   * @param {boolean} closed
   */
  constructor(value, closed) {
    this.value = value;
    this.closed = closed;
  }
}

/**
 * What a view shows: the rows of the table, the stacks among them, and those that closed groups hide.
 *
 * @param {Iterable<Stack>} all
 * @param {State} state
 */
export function arrange(all, state) {
  const stacks = [...all];
  const found = stacks.filter(filter(stacks, state)).sort(order(state.order));
  if (!state.group) return { rows: found, shown: found, closed: [] };
  const groups = grouped(found, state);
  const open = groups.filter((group) => !group.closed);
  return {
    rows: groups.flatMap((group) => (group.closed ? [group] : [group, ...group.stacks])),
    shown: open.flatMap((group) => group.stacks),
    closed: groups.filter((group) => group.closed).flatMap((group) => group.stacks),
  };
}

/**
 * @param {Stack[]} stacks
 * @param {State} state
 */
function grouped(stacks, { group: by, closed }) {
  /** @type {Map<string, Group>} */
  const groups = new Map();
  const value = groupOf(by);
  for (const stack of stacks) {
    const name = value(stack);
    const group = groups.get(name) ?? new Group(name, closed.has(name));
    groups.set(name, group);
    group.stacks.push(stack);
  }
  const rank = by === "status" ? (/** @type {string} */ name) => STATUSES.map(String).indexOf(name) : String;
  const last = (/** @type {Group} */ group) => (group.value ? 0 : 1); // those without a value
  return [...groups.values()].sort(
    (one, other) => last(one) - last(other) || compare(rank(one.value), rank(other.value)),
  );
}

/**
 * @param {string} by
 * @returns {(stack: Stack) => string}
 */
function groupOf(by) {
  if (by === "status") return (stack) => stack.status;
  const key = keyOf(by);
  return (stack) => String(key(stack));
}

/**
 * Whether a stack is left by the filter.
 *
 * @param {Stack[]} all
 * @param {State} state
 * @returns {(stack: Stack) => boolean}
 */
function filter(all, { text, statuses, node, template, label }) {
  const sought = text.toLowerCase().split(/\s+/).filter(Boolean);
  const labels = label
    .split(/[\s,]+/)
    .filter(Boolean)
    .map((each) => labelTest(each, all));
  return (stack) =>
    (!statuses.size || statuses.has(stack.status)) &&
    (!node || stack.node_id === node) &&
    (!template || stack.template === template) &&
    labels.every((test) => test(stack)) &&
    sought.every((word) => stack.haystack.includes(word));
}

/**
 * `name=value` is that label; `name` or `name=` is any value of it. While a name is typed, and as long as no stack has a
 * label of that very name, it stands for all names that begin so.
 *
 * @param {string} text
 * @param {Stack[]} all
 * @returns {(stack: Stack) => boolean}
 */
function labelTest(text, all) {
  const [name = "", value = ""] = text.split("=", 2);
  if (value) return (stack) => stack.labels?.[name] === value;
  const exact = text.includes("=") || all.some((stack) => hasLabel(stack, name));
  if (exact) return (stack) => hasLabel(stack, name);
  return (stack) => Object.keys(stack.labels ?? {}).some((each) => each.startsWith(name));
}

/**
 * @param {Stack} stack
 * @param {string} name
 */
function hasLabel(stack, name) {
  return Object.hasOwn(stack.labels ?? {}, name);
}

/**
 * @param {State["order"]} order
 * @returns {(one: Stack, other: Stack) => number}
 */
function order({ by, down }) {
  const sign = down ? -1 : 1;
  const key = keyOf(by);
  return (one, other) => sign * compare(key(one), key(other)) || compare(one.stack_id, other.stack_id);
}

/**
 * What a column orders by.
 *
 * @param {string} by
 * @returns {(stack: Stack) => string | number}
 */
export function keyOf(by) {
  if (by.startsWith(LABEL)) return (stack) => stack.labels?.[by.slice(LABEL.length)] ?? "";
  return KEYS[by] ?? age;
}

/**
 * @param {string | number} one
 * @param {string | number} other
 */
function compare(one, other) {
  if (typeof one === "number" && typeof other === "number") return one - other;
  return words.compare(String(one), String(other));
}
