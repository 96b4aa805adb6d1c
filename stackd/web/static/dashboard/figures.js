// The figures above the table: how many of each status, the load of the nodes, the ports in use, and the room that is left.
//
// What has not arrived yet is a grey bar, and what stackd does not know is "unknown": never a zero, never a full bar.

/** @import { Status } from "./stack.js" */
/** @import { Stacks } from "./stacks.js" */

import { h, show } from "../shared/dom.js";
import { ask, Refusal } from "./api.js";
import { bar, big, bone, numbers } from "./bar.js";
import { loads, nodesFigure } from "./nodes.js";
import { STATUSES, WORDS } from "./stack.js";

const EVERY = 10_000;
const SOON = 1_500; // after the stacks have changed
const TYPICAL = "cpu=100m&memory=128Mi";

/**
 * Answers of `/stats` and `/capacity`, as far as they are shown; null where stackd has refused them, undefined before.
 *
 * @typedef {{ used_node_ports: number, reserved_cpu_milli: number, reserved_memory_bytes: number }} Stats
 * @typedef {{ fits: number, limited_by: string, nodes: Record<string, number>, free_node_ports: number | null }} Capacity
 */

/** @type {Record<string, string>} */
const ENDS = {
  cpu: "CPU runs out",
  memory: "memory runs out",
  ephemeral_storage: "disk runs out",
  pods: "pods run out",
  nodes: "nodes run out",
  ports: "ports run out",
  quota: "the quota is used up",
  max_stacks: "limits.max_stacks is reached",
};

export class Figures {
  /** @type {Stats | null | undefined} */
  #stats;
  /** @type {Capacity | null | undefined} */
  #capacity;
  #counted = "";
  /** @type {number | undefined} */
  #timer;
  /** @type {number | undefined} */
  #soon;

  /**
   * @param {{ status: HTMLElement, nodes: HTMLElement, ports: HTMLElement, room: HTMLElement }} places
   * @param {Stacks} stacks
   */
  constructor(places, stacks) {
    this.places = places;
    this.stacks = stacks;
    stacks.subscribe(() => this.#draw());
  }

  start() {
    this.#timer = setInterval(() => document.hidden || this.refresh(), EVERY);
    this.refresh();
  }

  stop() {
    clearInterval(this.#timer);
    clearTimeout(this.#soon);
    this.#soon = this.#stats = this.#capacity = undefined;
    this.#counted = "";
  }

  /** Ask for what the list does not tell. What does not arrive leaves what was last known. */
  async refresh() {
    const asked = [ask("GET", "/stats"), ask("GET", `/capacity?${TYPICAL}`)];
    const [stats, capacity] = await Promise.allSettled(asked);
    this.#stats = stats ? latest(stats, this.#stats) : null;
    this.#capacity = capacity ? latest(capacity, this.#capacity) : null;
    this.#draw();
  }

  #draw() {
    const { all, arrived } = this.stacks;
    const counts = { running: 0, creating: 0, failed: 0, stopped: 0, node_deleted: 0 };
    for (const stack of all.values()) counts[stack.status] += 1;
    const nodes = loads(all.values());
    this.#refreshSoon(JSON.stringify([counts, [...nodes]]));
    show(this.places.status, this.#statuses(counts));
    const capacity = arrived ? this.#capacity : undefined;
    show(this.places.nodes, capacity === undefined ? waiting("nodes") : nodesFigure(nodes, capacity?.nodes ?? null));
    show(this.places.ports, this.#ports());
    show(this.places.room, this.#room());
  }

  /**
   * What the list does not tell has changed as well when the counts have.
   *
   * @param {string} counted
   */
  #refreshSoon(counted) {
    if (counted === this.#counted || !this.stacks.arrived || document.hidden) return;
    const first = !this.#counted;
    this.#counted = counted;
    if (first) return;
    this.#soon ??= setTimeout(() => {
      this.#soon = undefined;
      this.refresh();
    }, SOON);
  }

  /** @param {Record<Status, number>} counts */
  #statuses(counts) {
    const { all, arrived, view } = this.stacks;
    const words = STATUSES.map((status) => `${counts[status]} ${WORDS[status]}`).join(", ");
    const parts = STATUSES.map((status) => ({ size: counts[status], kind: status }));
    const chips = STATUSES.map((status) =>
      h(
        "button",
        {
          type: "button",
          class: "chip",
          "aria-pressed": String(view.state.statuses.has(status)),
          "data-status": status,
          click: () => view.toggleStatus(status),
        },
        h("span", { class: "dot", "aria-hidden": "true" }),
        h("b", {}, arrived ? numbers.format(counts[status]) : bone("digit")),
        WORDS[status],
      ),
    );
    return [
      arrived ? big(all.size, all.size === 1 ? " stack" : " stacks") : h("h3", {}, bone("digit"), " stacks"),
      h("div", {}, arrived ? bar(parts, all.size, words) : bone("chart")),
      h("div", { class: "legend", role: "group", "aria-label": "Filter by status" }, chips),
    ];
  }

  #ports() {
    if (this.#stats === undefined || this.#capacity === undefined) return waiting("ports in use");
    const used = this.#stats?.used_node_ports;
    const free = this.#capacity?.free_node_ports ?? null;
    if (used === undefined) return [h("h3", {}, "Ports in use"), note("unknown")];
    if (free === null) return [big(used, " ports in use"), note("how many are free is unknown")];
    const words = `${used} of ${used + free} node ports are in use`;
    return [
      big(used, used === 1 ? " port in use" : " ports in use"),
      bar([{ size: used, kind: used > 9 * free ? "full" : "used" }], used + free, words),
      note(`${numbers.format(free)} free`),
    ];
  }

  #room() {
    const capacity = this.#capacity;
    const stats = this.#stats;
    if (capacity === undefined || stats === undefined) return waiting("more fit");
    const reserved = stats
      ? `${(stats.reserved_cpu_milli / 1000).toFixed(1)} cores and ${memory(stats.reserved_memory_bytes)} reserved`
      : "what is reserved is unknown";
    const limit = capacity && `of 100m CPU and 128 MiB; ${ENDS[capacity.limited_by] ?? capacity.limited_by} first`;
    return [
      capacity ? big(capacity.fits, " more fit") : h("h3", {}, "More that fit"),
      note(limit ?? "unknown"),
      note(reserved),
    ];
  }
}

/**
 * The answer; what was known before where stackd did not answer, and null where it refused.
 *
 * @template Answer
 * @param {PromiseSettledResult<Answer>} asked
 * @param {Answer | null | undefined} before
 */
function latest(asked, before) {
  if (asked.status === "fulfilled") return asked.value;
  const { reason } = asked;
  return reason instanceof Refusal && reason.status ? null : before;
}

/** @param {string} what */
function waiting(what) {
  return [h("h3", {}, bone("digit"), ` ${what}`), bone("chart"), bone()];
}

/** @param {string} text */
function note(text) {
  return h("p", { class: "quiet" }, text);
}

/** @param {number} bytes */
function memory(bytes) {
  return bytes >= 2 ** 30 ? `${(bytes / 2 ** 30).toFixed(1)} GiB` : `${Math.round(bytes / 2 ** 20)} MiB`;
}
