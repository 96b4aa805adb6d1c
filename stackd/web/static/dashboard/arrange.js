// Which stacks a view shows, in which order and groups. Pure.

/** @import { Stack, Status } from "./stacks.js" */
/** @import { Tally } from "./trouble.js" */
/** @import { State } from "./view.js" */

/** What a word is looked for in: labels, and all text. @typedef {{ tags: Set<string>, haystack: string }} Searched */

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
  player: (stack) => stack.player,
  age,
  left: (stack) => stack.expires,
  worst: (stack) => (kindOf(stack) ? 0 : 1),
};
const words = new Intl.Collator("en", { numeric: true });

/** What the rows do not show until they may change their places. */
export const NOTHING = { fresh: 0, gone: 0, order: false };

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

/** Labels as they are written. @param {Record<string, string> | null} [labels] */
export const pairs = (labels) => Object.entries(labels ?? {}).map((pair) => pair.join("="));

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
 * What was shown before, as it is now, with each row at its place: what is gone says so, and what is new is at the end, or left
 * out of groups. And what waits for another order.
 *
 * @param {(Stack | Group)[]} before @param {ReturnType<typeof arrange>} next @param {Map<string, Stack>} all
 * @param {typeof NOTHING} waiting
 */
export function held(before, next, all, waiting) {
  const key = (/** @type {Stack | Group | undefined} */ row) => row && ("value" in row ? row.value : row.stack_id);
  if (before.every((row, place) => key(row) === key(next.rows[place]))) return { ...next, waiting: NOTHING };
  const groups = new Map(next.rows.flatMap((row) => (row instanceof Group ? [[row.value, row]] : [])));
  const rows = before.map((row) =>
    row instanceof Group ? (groups.get(row.value) ?? row) : (all.get(row.stack_id) ?? { ...row, gone: true }),
  );
  const shown = byId(rows.flatMap((row) => (row instanceof Group || row.gone ? [] : [row])));
  const fresh = [...next.shown.values()].filter((stack) => !shown.has(stack.stack_id));
  const gone = rows.filter((row) => "gone" in row && row.gone).length;
  const count = fresh.length;
  if (groups.size) return { ...next, rows, shown, waiting: { fresh: count, gone, order: true } };
  for (const stack of fresh) shown.set(stack.stack_id, stack);
  return { ...next, rows: [...rows, ...fresh], shown, waiting: { fresh: waiting.fresh + count, gone, order: true } };
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
  const finds = finder(text);
  return (stack) =>
    (!statuses.size || statuses.has(stack.status)) &&
    (!node || stack.node_id === node) &&
    (!template || stack.template === template) &&
    (!trouble || (trouble === "expiring" ? expiresSoon(stack) : matches(kindOf(stack), trouble))) &&
    finds(stack);
}

/** Text as it is compared: an umlaut is found by its letter, however either was typed. @param {string} text */
export const fold = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase().replaceAll("ß", "ss");

/** Whether something has all words of a text. @param {string} text @returns {(found: Searched) => boolean} */
export function finder(text) {
  const words = fold(text).match(/(?:"[^"]*"|[^\s,"])+/g) ?? [];
  const tests = words.map((word) => test(word.replaceAll('"', "")));
  return (found) => tests.every((each) => each(found));
}

/** A word of a filter that may have spaces in it. @param {string} text */
export const quoted = (text) => (/[\s,]/.test(text) ? `"${text}"` : text);

/** @param {string | null} kind @param {string} trouble */
const matches = (kind, trouble) => kind !== null && (trouble === "any" || kind === trouble);

/** `name=value` is that label; all else is found anywhere. @param {string} word @returns {(found: Searched) => boolean} */
function test(word) {
  const label = word.includes("=") && !word.endsWith("=");
  return label ? ({ tags }) => tags.has(word) : ({ haystack }) => haystack.includes(word);
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
