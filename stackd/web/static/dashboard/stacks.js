// The stacks as last received, and which of them are shown. Knows nothing of the page.

/** @import { Group } from "./arrange.js" */
/** @import { Links } from "./links.js" */
/** @import { View } from "./view.js" */

import { arrange, fold, held, NOTHING, pairs } from "./arrange.js";
import { Subject } from "./subject.js";

/**
 * A stack as the API returns it, and what the page needs beside that; times in milliseconds.
 *
 * @typedef {import("../../../../.ci/js/node_modules/.openapi.ts").components["schemas"]} Schemas
 * @typedef {Schemas["StackStatus"]} Status
 * @typedef {Schemas["Address"]} Address
 * @typedef {Schemas["TemplateChecked"]} Checked
 * @typedef {NonNullable<Schemas["StackCreated"]["values"]>} Values
 * @typedef {Schemas["StackEntry"] & Pick<Schemas["StackCreated"], Required | "values">} StackData
 * @typedef {"stack_id" | "status" | "created_at" | "updated_at" | "ttl_expires_at"} Required
 * @typedef {{ player: string, repeats: string[], labelled: string[], addresses: Address[], address: string, haystack: string, tags: Set<string>,
 *   created: number, changed: number, expires: number, gone?: boolean }} Prepared
 * @typedef {StackData & Prepared} Stack
 */

const PAUSE = 200; // between two looks at a burst of events, in milliseconds
const PAUSE_OF_CLASS = 1_000; // a class that begins at once is no slower for whoever watches it

/** @type {Record<Status, string>} */
export const WORDS = {
  running: "running",
  creating: "creating",
  failed: "failed",
  stopped: "stopped",
  node_deleted: "node gone",
};

/** A name without what a label cannot have. @param {string} text */
const bare = (text) => fold(text).replaceAll(/[^\p{L}\p{N}]/gu, "");

/** A stack with what the page needs of it; `player` is who has it, as the labels `repeats` say, too. @param {StackData} stack @param {string} player @returns {Stack} */
function prepare(stack, player) {
  const isSaid = bare(player);
  const repeats = Object.entries(stack.labels ?? {}).flatMap(([name, value]) => (bare(value) === isSaid ? name : []));
  const labelled = pairs(stack.labels);
  const { stack_id: id, status, status_reason: reason, status_message: message, node_id: node, template } = stack;
  const { addresses = [], title } = stack;
  const places = addresses.map(({ text }) => text);
  const searched = [id, status, WORDS[status], reason, message, node, template, title, player, ...places, ...labelled];
  return {
    ...stack,
    player,
    repeats,
    labelled,
    addresses,
    address: places[0] ?? "",
    haystack: fold(searched.filter(Boolean).join(" ")),
    tags: new Set(labelled.map(fold)),
    created: Date.parse(stack.created_at),
    changed: Date.parse(stack.updated_at),
    expires: stack.shared ? Infinity : Date.parse(stack.ttl_expires_at), // stackd keeps it for everybody
  };
}

export class Stacks extends Subject {
  /** @type {Map<string, Stack>} */
  all = new Map();
  /** What was generated for the stacks that were created here; no later answer has it. @type {Map<string, Values>} */
  values = new Map();
  /** What the last check has said, by the stack's id. @type {Map<string, Checked>} */
  checked = new Map();
  /** @type {number | undefined} */
  #pending;
  #flushed = 0;
  /** The rows of the table: stacks, and groups of them. @type {(Stack | Group)[]} */
  rows = [];
  /** The stacks among them, by id. @type {Map<string, Stack>} */
  shown = new Map();
  /** Those that closed groups hide. @type {Map<string, Stack>} */
  closed = new Map();
  /** The labels in use; those that came first stay first, so that no column moves while stacks come and go. */
  labels = /** @type {string[]} */ ([]);
  arrived = false;
  /** Whether somebody reads the rows: they stay where they are then. */
  isRead = () => false;
  waiting = NOTHING;
  #turn = 0;

  /** @param {View} view @param {Links} links */
  constructor(view, links) {
    super();
    this.view = view;
    this.links = links;
    links.subscribe(() => {
      if (this.arrived) this.replace([...this.all.values()]);
    });
    view.subscribe(() => this.flush());
  }

  /** @param {string} id */
  get(id) {
    return this.all.get(id);
  }

  /** What people call a stack, which may be gone: its labels, and its id. @param {string} id */
  nameOf(id) {
    const { player, labelled } = this.get(id) ?? {};
    return [player, ...(labelled ?? []), id].filter(Boolean).join(" ");
  }

  /** @param {StackData[]} stacks */
  replace(stacks) {
    this.all = new Map(stacks.map((stack) => [stack.stack_id, prepare(stack, this.links.nameOf(stack))]));
    this.arrived = true;
    this.flush();
  }

  /** Take in a stack as received; one that is older than the known one is ignored. @param {StackData} stack */
  put(stack) {
    if (stack.values) this.values.set(stack.stack_id, stack.values);
    const before = this.all.get(stack.stack_id);
    if (before && stack.updated_at.slice(0, -1) < before.updated_at.slice(0, -1)) return; // fractions differ in length
    this.all.set(stack.stack_id, prepare(stack, this.links.nameOf(stack)));
    this.#changed();
  }

  /** @param {string} id */
  remove(id) {
    if (this.all.delete(id)) this.#changed();
  }

  clear() {
    this.all = new Map();
    this.values.clear();
    this.arrived = false;
    this.flush(true);
  }

  /** Tell everybody once; a burst of events is one change. */
  #changed() {
    const least = this.view.state.players ? PAUSE_OF_CLASS : PAUSE;
    const pause = Math.max(0, this.#flushed + least - performance.now());
    this.#pending ??= setTimeout(() => this.flush(), pause);
  }

  /** Tell everybody now; with `moves`, rows change their places although somebody reads them, who wants that. */
  flush(moves = false) {
    clearTimeout(this.#pending);
    this.#pending = undefined;
    this.#flushed = performance.now();
    this.#count();
    const [before, { state, turn }] = [this.#turn, this.view];
    const next = arrange([...this.all.values()], state);
    this.#turn = turn;
    const stays = turn === before && !moves && this.isRead();
    Object.assign(this, stays ? held(this.rows, next, this.all, this.waiting) : { ...next, waiting: NOTHING });
    this.tell();
  }

  #count() {
    /** @type {Map<string, number>} */
    const counts = new Map();
    for (const { labels } of this.all.values())
      for (const name in labels) counts.set(name, (counts.get(name) ?? 0) + 1);
    const kept = this.labels.filter((name) => counts.has(name));
    const fresh = [...counts.keys()].filter((name) => !kept.includes(name));
    fresh.sort((one, other) => (counts.get(other) ?? 0) - (counts.get(one) ?? 0) || (one < other ? -1 : 1));
    this.labels = [...kept, ...fresh];
  }
}
