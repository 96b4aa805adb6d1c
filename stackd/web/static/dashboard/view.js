// What is looked at: filters, order, groups and the open stack. All of it stands in the address bar, so that a
// link, a reload and Back bring it back. Knows nothing of the page's elements.

/** @import { Status } from "./stack.js" */

import { STATUSES } from "./stack.js";

/**
 * `order.by` and `group` name columns: `status`, `node`, …, and `label:NAME` for a label's. `closed` are the
 * groups that are closed, which no link keeps.
 *
 * @typedef {object} State
 * @property {string} text
 * @property {Set<Status>} statuses
 * @property {string} node
 * @property {string} template
 * @property {string} label
 * @property {{ by: string, down: boolean }} order
 * @property {string} group
 * @property {string | null} stack
 * @property {Set<string>} closed
 */

/** @type {Readonly<Pick<State, "text" | "statuses" | "node" | "template" | "label">>} */
const NO_FILTER = Object.freeze({ text: "", statuses: new Set(), node: "", template: "", label: "" });
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

  /**
   * Call the listener at once after each change.
   *
   * @param {() => void} listener
   */
  subscribe(listener) {
    this.#listeners.add(listener);
  }

  /** Whether a filter leaves something out. */
  get narrowed() {
    const { text, statuses, node, template, label } = this.state;
    return Boolean(text.trim() || statuses.size || node || template || label.trim());
  }

  /** The filter in words; empty where there is none. */
  get words() {
    const { text, statuses, node, template, label } = this.state;
    const status = [...statuses].join(" or ").replace("_", " ");
    const parts = [template && `template ${template}`, label.trim(), status, node && `node ${node}`];
    if (text.trim()) parts.push(`“${text.trim()}”`);
    return parts.filter(Boolean).join(", ");
  }

  /**
   * Change what is given, in the same entry of the browser's history.
   *
   * @param {Partial<State>} part
   */
  change(part) {
    this.state = { ...this.state, ...part };
    history.replaceState(history.state, "", this.link());
    this.#tell();
  }

  clearFilter() {
    this.change({ ...NO_FILTER, statuses: new Set() });
  }

  /** @param {Status} status */
  toggleStatus(status) {
    const statuses = new Set(this.state.statuses);
    if (!statuses.delete(status)) statuses.add(status);
    this.change({ statuses });
  }

  /**
   * Close a group, or open it again.
   *
   * @param {string} value
   */
  toggleGroup(value) {
    const closed = new Set(this.state.closed);
    if (!closed.delete(value)) closed.add(value);
    this.change({ closed });
  }

  /**
   * Order by a column; by the one that is ordered by already, the other way round.
   *
   * @param {string} by
   */
  sort(by) {
    const { order } = this.state;
    this.change({ order: { by, down: order.by === by && !order.down } });
  }

  /**
   * Open a stack, so that Back closes it.
   *
   * @param {string} stack
   */
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

  /** The address of what is looked at. */
  link() {
    return this.hash() || location.pathname;
  }

  /** What is looked at, as the hash of an address; empty for what the page begins with. */
  hash() {
    const { state } = this;
    const kept = new URLSearchParams();
    if (state.text) kept.set("find", state.text);
    if (state.statuses.size) kept.set("status", [...state.statuses].join(","));
    if (state.node) kept.set("node", state.node);
    if (state.template) kept.set("template", state.template);
    if (state.label) kept.set("label", state.label);
    const { by, down } = state.order;
    if (by !== NEWEST_FIRST || down) kept.set("sort", `${down ? "-" : ""}${by}`);
    if (state.group) kept.set("group", state.group);
    if (state.stack) kept.set("stack", state.stack);
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

/**
 * @param {string} hash
 * @returns {State}
 */
function parse(hash) {
  const kept = new URLSearchParams(hash.slice(1));
  const named = (kept.get("status") ?? "").split(",");
  const sort = kept.get("sort") || NEWEST_FIRST;
  return {
    text: kept.get("find") ?? "",
    statuses: new Set(STATUSES.filter((status) => named.includes(status))),
    node: kept.get("node") ?? "",
    template: kept.get("template") ?? "",
    label: kept.get("label") ?? "",
    order: { by: sort.replace(/^-/, ""), down: sort.startsWith("-") },
    group: kept.get("group") ?? "",
    stack: kept.get("stack"),
    closed: new Set(),
  };
}
