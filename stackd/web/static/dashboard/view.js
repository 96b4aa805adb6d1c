// What is looked at: filters, order, groups and the open stack. All of it stands in the address bar, so that a
// link, a reload and Back bring it back. Knows nothing of the page's elements.

/** @import { Status } from "./stacks.js" */

import { STATUSES, WORDS } from "./stacks.js";
import { KINDS } from "./trouble.js";

/**
 * `order.by` and `group` name columns: `status`, `node`, …, and `label:NAME` for a label's. `trouble` is a kind of
 * trouble, or `any`. `closed` are the groups that are closed, which no link keeps.
 *
 * @typedef {object} State
 * @property {string} text
 * @property {Set<Status>} statuses
 * @property {string} node
 * @property {string} template
 * @property {string} trouble
 * @property {{ by: string, down: boolean }} order
 * @property {string} group
 * @property {string | null} stack
 * @property {Set<string>} closed
 */

/** @typedef {Pick<State, "text" | "statuses" | "node" | "template" | "trouble">} Filter */
/** @returns {Filter} */
export const noFilter = () => ({ text: "", statuses: new Set(), node: "", template: "", trouble: "" });
const NEWEST_FIRST = "age";

export class View {
  /** @type {Set<() => void>} */
  #listeners = new Set();
  /** @type {string | undefined} The hash of the entry below the present one, where this page has made the latter. */
  #under = history.state?.under;
  state = parse(location.hash);

  constructor() {
    addEventListener("popstate", () => this.#arrived());
  }

  /** Call the listener at once after each change. @param {() => void} listener */
  subscribe(listener) {
    this.#listeners.add(listener);
  }

  /** Whether a filter leaves something out. */
  get narrowed() {
    return this.words !== "";
  }

  /** The filter in words; empty where there is none. */
  get words() {
    const { text, statuses, node, template, trouble } = this.state;
    const kind = KINDS[/** @type {keyof KINDS} */ (trouble)] ?? "needs attention";
    const status = [...statuses].map((each) => WORDS[each]).join(" or ");
    const parts = [template && `template ${template}`, trouble && kind, status, node && `node ${node}`, text.trim()];
    return parts.filter(Boolean).join(", ");
  }

  /** Change what is named, in the same entry of the browser's history. @param {Partial<State>} part */
  change(part) {
    this.state = { ...this.state, ...part };
    history.replaceState(history.state, "", this.hash() || location.pathname);
    this.#tell();
  }

  /** Show what this filter leaves, and nothing else of a filter. @param {Partial<Filter>} filter */
  narrow(filter) {
    this.change({ ...noFilter(), ...filter });
  }

  /** @param {Status} status */
  toggleStatus(status) {
    this.change({ statuses: toggled(this.state.statuses, status) });
  }

  /** Close a group, or open it again. @param {string} value */
  toggleGroup(value) {
    this.change({ closed: toggled(this.state.closed, value) });
  }

  /** Order by a column; by the one that is ordered by already, the other way round. @param {string} by */
  sort(by) {
    const { order } = this.state;
    this.change({ order: { by, down: order.by === by && !order.down } });
  }

  /** Open a stack, so that Back closes it. @param {string} stack */
  open(stack) {
    if (this.state.stack === null) history.pushState({ under: location.hash }, "");
    this.change({ stack });
  }

  /** Close the stack that is open. */
  close() {
    if (this.state.stack === null) return;
    if (typeof history.state?.under === "string") history.back();
    else this.change({ stack: null });
  }

  /** What is looked at, as the hash of an address; empty for what the page begins with. */
  hash() {
    const { text, statuses, order, ...state } = this.state;
    const sort = `${order.down ? "-" : ""}${order.by}`;
    const { node, template, trouble, group, stack } = state;
    const all = { find: text, status: [...statuses].join(","), node, template, trouble };
    const pairs = Object.entries({ ...all, sort: sort === NEWEST_FIRST ? "" : sort, group, stack: stack ?? "" });
    const kept = new URLSearchParams(pairs.filter(([, value]) => value));
    const hash = String(kept).replaceAll("%3A", ":").replaceAll("%2C", ",");
    return hash && `#${hash}`;
  }

  /** The browser has gone to another entry of its history, or to another link of this page. */
  #arrived() {
    if (this.state.stack !== null && this.#under === location.hash) {
      this.change({ stack: null }); // Back closes the panel and nothing else
    } else {
      this.state = parse(location.hash);
      this.#tell();
    }
  }

  #tell() {
    this.#under = history.state?.under;
    for (const listener of this.#listeners) listener();
  }
}

/** @template Any @param {Set<Any>} set @param {Any} value */
function toggled(set, value) {
  return set.symmetricDifference(new Set([value]));
}

/** @param {string} hash @returns {State} */
function parse(hash) {
  const kept = new URLSearchParams(hash.slice(1));
  const text = (/** @type {string} */ name) => kept.get(name) ?? "";
  const named = text("status").split(",");
  const sort = text("sort") || NEWEST_FIRST;
  return {
    text: [text("find"), text("label")].filter(Boolean).join(" "), // links of earlier versions name labels apart
    statuses: new Set(STATUSES.filter((status) => named.includes(status))),
    node: text("node"),
    template: text("template"),
    trouble: text("trouble"),
    order: { by: sort.replace(/^-/, ""), down: sort.startsWith("-") },
    group: text("group"),
    stack: kept.get("stack"),
    closed: new Set(),
  };
}
