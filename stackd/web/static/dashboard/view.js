// What is looked at: filters, order, groups and the open stack. All of it stands in the address bar, so that a
// link, a reload and Back bring it back. Knows nothing of the page's elements.

/** @import { Status } from "./stacks.js" */

import { STATUSES } from "./arrange.js";
import { WORDS } from "./stacks.js";
import { Subject } from "./subject.js";
import { KINDS } from "./trouble.js";

/**
 * `order.by` and `group` name columns: `status`, `node`, …, and `label:NAME` for a label's. `trouble` is a kind of
 * trouble, or `any`. `attention` is what the list of what needs attention is by, or `open`; empty where it is closed.
 * `closed` are the groups that are closed, which no link keeps.
 *
 * @typedef {{ text: string, statuses: Set<Status>, node: string, template: string, trouble: string }} Filter
 * @typedef {Filter & { order: { by: string, down: boolean }, group: string, attention: string, players: string, stack: string | null,
 *   closed: Set<string> }} State
 */

/** @returns {Filter} */
export const noFilter = () => ({ text: "", statuses: new Set(), node: "", template: "", trouble: "" });
/** What a table begins with: on a phone, where little is seen, what is broken. */
const FIRST = matchMedia("(max-width: 800px)").matches ? "worst" : "age";

export class View extends Subject {
  /** @type {string | undefined} The hash of the entry below the present one, where this page has made the latter. */
  #under = history.state?.under;
  state = parse(location.hash);
  /** Another number after each change of what the rows are. */
  turn = 1;

  constructor() {
    super();
    addEventListener("popstate", () => this.#arrived());
  }

  /** The filter in words; empty where there is none. */
  get words() {
    const { text, statuses, node, template, trouble } = this.state;
    const kind = { ...KINDS, expiring: "expires soon" }[trouble] ?? "needs attention";
    const status = [...statuses].map((each) => WORDS[each]).join(" or ");
    const parts = [template && `template ${template}`, trouble && kind, status, node && `node ${node}`, text.trim()];
    return parts.filter(Boolean).join(", ");
  }

  /** Change what is named, in the same entry of the browser's history. @param {Partial<State>} part */
  change(part) {
    if (!("stack" in part || "attention" in part || "players" in part)) this.turn += 1;
    this.state = { ...this.state, ...part };
    history.replaceState(history.state, "", this.hash() || location.pathname);
    this.#changed();
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
    const { node, template, trouble, group, attention, players, stack } = state;
    const all = { find: text, status: [...statuses].join(","), node, template, trouble };
    const pairs = Object.entries({
      ...all,
      sort: sort === FIRST ? "" : sort,
      group,
      attention,
      players,
      stack: stack ?? "",
    });
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
      this.turn += 1;
      this.#changed();
    }
  }

  #changed() {
    this.#under = history.state?.under;
    this.tell();
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
  const sort = text("sort") || FIRST;
  return {
    text: [text("find"), text("label")].filter(Boolean).join(" "), // links of earlier versions name labels apart
    statuses: new Set(STATUSES.filter((status) => named.includes(status))),
    node: text("node"),
    template: text("template"),
    trouble: text("trouble"),
    order: { by: sort.replace(/^-/, ""), down: sort.startsWith("-") },
    group: text("group"),
    attention: text("attention"),
    players: text("players"),
    stack: kept.get("stack"),
    closed: new Set(),
  };
}
