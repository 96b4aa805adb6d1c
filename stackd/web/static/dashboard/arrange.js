// Which stacks a view shows, in which order and groups. Pure.

/** @import { Stack, Status } from "./stacks.js" */
/** @import { Tally } from "./trouble.js" */
/** @import { State } from "./view.js" */

import { expiresSoon, kindOf, tally } from "./trouble.js";

/** @type {Status[]} */
export const STATUSES = ["running", "creating", "failed", "stopped", "node_deleted"];

export const LABEL = "label:";
/** @type {(stack: Stack) => number} */
const age = (stack) => -stack.created;
/** @type {Record<string, (stack: Stack) => string | number>} */
const KEYS = {
  status: (stack) => STATUSES.indexOf(stack.status),
  id: (stack) => stack.stack_id,
  address: (stack) => stack.address,
  node: (stack) => stack.node_id ?? "",
  template: (stack) => stack.template ?? "",
  age,
  left: (stack) => stack.expires,
  worst: (stack) => (kindOf(stack) ? 0 : 1),
};
const words = new Intl.Collator("en", { numeric: true });

/** The stacks that have one value of what is grouped by; the table shows it as a row above them. */
export class Group {
  /** @type {Stack[]} */
  stacks = [];
  tally = /** @type {Tally} */ ({});

  /** @param {string} value */
  constructor(value) {
    this.value = value;
  }
}

/** What a view shows: the rows of the table, the stacks among them, and those that closed groups hide. @param {Stack[]} all @param {State} state */
export function arrange(all, state) {
  const found = all.filter(filter(state)).sort(order(state.order));
  if (!state.group) return { rows: found, shown: byId(found), closed: new Map() };
  const groups = grouped(found, state.group);
  const open = groups.filter((group) => !state.closed.has(group.value));
  return {
    rows: groups.flatMap((group) => (open.includes(group) ? [group, ...group.stacks] : [group])),
    shown: byId(open.flatMap((group) => group.stacks)),
    closed: byId(groups.filter((group) => !open.includes(group)).flatMap((group) => group.stacks)),
  };
}

/**
 * What was shown before, as it is now: in the same order, with what is gone and without what is new. And how many are new.
 *
 * @param {(Stack | Group)[]} before @param {ReturnType<typeof arrange>} next @param {Map<string, Stack>} all
 */
export function held(before, next, all) {
  const groups = new Map(next.rows.flatMap((row) => (row instanceof Group ? [[row.value, row]] : [])));
  const rows = before.map((row) =>
    row instanceof Group ? (groups.get(row.value) ?? row) : (all.get(row.stack_id) ?? { ...row, gone: true }),
  );
  const shown = byId(rows.flatMap((row) => (row instanceof Group || row.gone ? [] : [row])));
  return { ...next, rows, shown, fresh: [...next.shown.keys()].filter((id) => !shown.has(id)).length };
}

/** The groups of these stacks: the worst first, and otherwise by their names. @param {Stack[]} stacks @param {string} by */
export function grouped(stacks, by) {
  /** @type {Map<string, Group>} */
  const groups = new Map();
  const value = by === "status" ? (/** @type {Stack} */ stack) => stack.status : keyOf(by);
  for (const stack of stacks) {
    const name = String(value(stack));
    const group = groups.get(name) ?? new Group(name);
    groups.set(name, group);
    group.stacks.push(stack);
  }
  for (const group of groups.values()) group.tally = tally(group.stacks);
  const last = (/** @type {Group} */ group) => (group.value ? 0 : 1); // those without a value
  return [...groups.values()].sort(
    (one, other) => other.tally.weight - one.tally.weight || last(one) - last(other) || compare(one.value, other.value),
  );
}

/** @param {Stack[]} stacks */
const byId = (stacks) => new Map(stacks.map((stack) => [stack.stack_id, stack]));

/** Whether a stack is left by the filter. @param {State} state @returns {(stack: Stack) => boolean} */
function filter({ text, statuses, node, template, trouble }) {
  const words = text.toLowerCase().match(/(?:"[^"]*"|[^\s,"])+/g) ?? [];
  const tests = words.map((word) => test(word.replaceAll('"', "")));
  return (stack) =>
    (!statuses.size || statuses.has(stack.status)) &&
    (!node || stack.node_id === node) &&
    (!template || stack.template === template) &&
    (!trouble || (trouble === "expiring" ? expiresSoon(stack) : matches(kindOf(stack), trouble))) &&
    tests.every((each) => each(stack));
}

/** A word of a filter that may have spaces in it. @param {string} text */
export const quoted = (text) => (/[\s,]/.test(text) ? `"${text}"` : text);

/** @param {string | null} kind @param {string} trouble */
const matches = (kind, trouble) => kind !== null && (trouble === "any" || kind === trouble);

/** `name=value` is that label; all else is found anywhere. @param {string} word @returns {(stack: Stack) => boolean} */
function test(word) {
  const label = word.includes("=") && !word.endsWith("=");
  return label ? (stack) => stack.tags.has(word) : (stack) => stack.haystack.includes(word);
}

/** @param {State["order"]} order @returns {(one: Stack, other: Stack) => number} */
function order({ by, down }) {
  const sign = down ? -1 : 1;
  const key = keyOf(by);
  return (one, other) => sign * compare(key(one), key(other)) || (one.stack_id < other.stack_id ? -1 : 1);
}

/** What a column orders by. @param {string} by @returns {(stack: Stack) => string | number} */
function keyOf(by) {
  if (by.startsWith(LABEL)) return (stack) => stack.labels?.[by.slice(LABEL.length)] ?? "";
  return KEYS[by] ?? age;
}

/** @param {string | number} one @param {string | number} other */
export function compare(one, other) {
  if (typeof one === "number" && typeof other === "number") return one - other;
  return one === other ? 0 : words.compare(String(one), String(other));
}
