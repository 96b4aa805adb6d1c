// Which stacks need attention, why, and where the guide says what to do about it. Pure.

/** @import { Stack } from "./stacks.js" */

import { now } from "./times.js";

/** @typedef {"failed" | "gone" | "unready" | "restarting" | "pulling"} Kind */

/** What can be broken, in words. A stack has one of them at most. @type {Record<Kind, string>} */
export const KINDS = {
  failed: "failed",
  gone: "node gone",
  unready: "not ready",
  restarting: "restarting",
  pulling: "pulling",
};
/** @type {Record<string, Kind>} */
const OF_PROBLEMS = { node: "gone", not_ready: "unready", no_address: "unready" };
/** How much one stack of a kind weighs where the worst comes first. @type {Record<Kind, number>} */
const WEIGHTS = { failed: 1000, gone: 1000, unready: 1000, restarting: 1000, pulling: 300 };
const SLOW = 60_000; // a stack that is created for longer
const SOON = 10 * 60_000; // a stack that lives for less
const ENDS = /^container \S+ (ended with|was killed|could not)/;

const CREATING = "troubleshooting#a-stack-stays-creating";
/** What the guide names first, where that is no restart, by problem. @type {Record<string, string>} */
const REMEDIES = {
  image: "Correct the image",
  pull: "Correct the image",
  config: "Correct the pod spec",
  memory: "Raise the limit",
};

/** Where the guide says what to do. @param {Stack} stack */
export const guideOf = (stack) => `/docs/${stack.problem?.guide ?? CREATING}`;

/** What to change before a restart can help; undefined where nothing is. @param {Stack} stack */
export const remedyOf = (stack) => REMEDIES[stack.problem?.key ?? ""];

/** A reason, in the words that the page has for it. @param {string} reason */
export const wordsOf = (reason) => (reason === "NodeDeleted" ? KINDS.gone : reason);

/** Whether nothing is wrong with a stack but that its time is almost over. @param {Stack} stack */
export const expiresSoon = (stack, time = now()) =>
  stack.status === "running" && stack.expires - time < SOON && !kindOf(stack, time);

/** What is wrong with a stack; null where nothing is. @param {Stack} stack @returns {Kind | null} */
export function kindOf(stack, time = now()) {
  const { status, status_reason: reason } = stack;
  if (status === "creating") return stack.problem || time - stack.changed > SLOW ? "pulling" : null;
  if (!stack.problem || (status === "stopped" && reason !== "PodDeleted")) return null; // its user or its program ended it
  const ends = status === "running" && ENDS.test(stack.status_message ?? "");
  if (ends || reason === "CrashLoopBackOff") return "restarting";
  return OF_PROBLEMS[stack.problem.key] ?? "failed";
}

/** Why a stack needs attention, in a word or two. @param {Stack} stack @param {Kind} kind */
export function reasonOf(stack, kind) {
  if (stack.status_reason) return stack.status_reason;
  return kind === "pulling" ? "still creating" : kind === "unready" ? "no public address" : "failed";
}

/**
 * The trouble of some stacks: how many there are of each kind, the most frequent reason of the worst ones, and one of
 * the stacks that have it. More that are broken weigh more; of as many, those of which more are broken.
 *
 * @typedef {{ total: number, trouble: number, weight: number, counts: Record<Kind, number>,
 *   top: { reason: string, count: number, stack: Stack } | null }} Tally
 *
 * @param {Iterable<Stack>} stacks
 * @returns {Tally}
 */
export function tally(stacks, time = now()) {
  const counts = { failed: 0, gone: 0, unready: 0, restarting: 0, pulling: 0 };
  let [total, trouble, weight] = [0, 0, 0];
  /** @type {Map<string, { reason: string, count: number, weight: number, stack: Stack }>} */
  const reasons = new Map();
  for (const stack of stacks) {
    total += 1;
    const kind = kindOf(stack, time);
    if (!kind) continue;
    trouble += 1;
    weight += WEIGHTS[kind];
    counts[kind] += 1;
    const reason = reasonOf(stack, kind);
    const found = reasons.get(reason) ?? { reason, count: 0, weight: 0, stack };
    reasons.set(reason, found);
    found.count += 1;
    found.weight += WEIGHTS[kind];
  }
  const top = [...reasons.values()].sort((one, other) => other.weight - one.weight)[0] ?? null;
  return { total, trouble, weight: weight + trouble / Math.max(1, total), counts, top };
}
