// The figures above the table: how many of each status, the load of the nodes, the ports in use, and the room that is left.

import { ask } from "./api.js";
import { fill, h, say } from "../shared/dom.js";
import { STATUSES, WORDS } from "./stacks.js";

const EVERY = 10_000;
const TYPICAL = "cpu=100m&memory=128Mi";
const ENDS = {
  cpu: "CPU runs out",
  memory: "memory runs out",
  pods: "pods run out",
  nodes: "nodes run out",
  ports: "ports run out",
  quota: "the quota ends",
  max_stacks: "limits.max_stacks ends",
};
const numbers = new Intl.NumberFormat();

/** A bar of parts, each `{ size, kind }`, of a whole; it is drawn, and said in words to a screen reader. */
export function bar(parts, whole, words) {
  const drawn = h("div", { class: "chart", role: "img", "aria-label": words });
  for (const { size, kind } of parts) {
    if (!size) continue;
    const part = h("span", { class: `part ${kind}` });
    part.style.width = `${Math.max(0.5, (100 * size) / Math.max(1, whole))}%`;
    drawn.append(part);
  }
  return drawn;
}

export class Figures {
  #stats = null;
  #room = null;
  #drawn = "";

  constructor(places, stacks, filters) {
    this.places = places;
    this.stacks = stacks;
    this.filters = filters;
    this.chips = new Map();
    this.#statusFigure();
    stacks.subscribe(() => this.#draw());
  }

  start() {
    this.timer = setInterval(() => document.hidden || this.refresh(), EVERY);
    this.refresh();
  }

  stop() {
    clearInterval(this.timer);
  }

  /** Ask for what the list does not tell. */
  async refresh() {
    const asked = [ask("GET", "/stats"), ask("GET", `/capacity?${TYPICAL}`)];
    const [stats, room] = await Promise.allSettled(asked);
    this.#stats = stats.value ?? null;
    this.#room = room.value ?? null;
    this.#draw();
  }

  #statusFigure() {
    this.statusBar = h("div", {});
    const legend = h("div", { class: "legend", role: "group", "aria-label": "Filter by status" });
    for (const status of STATUSES) {
      const count = h("b", {}, "0");
      const chip = h("button", { type: "button", class: "chip", "aria-pressed": "false", "data-status": status }, h("span", { class: "dot", "aria-hidden": "true" }), count, WORDS[status]);
      chip.addEventListener("click", () => this.filters.toggleStatus(status));
      this.chips.set(status, { chip, count });
      legend.append(chip);
    }
    this.total = h("b", { class: "big" }, "0");
    fill(this.places.status, h("h3", {}, this.total, " stacks"), this.statusBar, legend);
  }

  #draw() {
    const counts = Object.fromEntries(STATUSES.map((status) => [status, 0]));
    const nodes = new Map();
    for (const stack of this.stacks.all.values()) {
      counts[stack.status] += 1;
      if (stack.node_id && !stack.ended && stack.status !== "stopped") {
        nodes.set(stack.node_id, (nodes.get(stack.node_id) ?? 0) + 1);
      }
    }
    for (const [status, { chip, count }] of this.chips) {
      say(count, numbers.format(counts[status]));
      chip.setAttribute("aria-pressed", String(this.stacks.filter.statuses.has(status)));
    }
    say(this.total, numbers.format(this.stacks.all.size));
    const state = JSON.stringify([counts, [...nodes], this.#stats, this.#room]);
    if (state === this.#drawn) return;
    this.#drawn = state;
    const words = STATUSES.map((status) => `${counts[status]} ${WORDS[status]}`).join(", ");
    const parts = STATUSES.map((status) => ({ size: counts[status], kind: status }));
    fill(this.statusBar, bar(parts, this.stacks.all.size, words));
    this.#nodes(nodes);
    this.#ports();
    this.#left();
  }

  #nodes(counts) {
    const room = this.#room?.nodes ?? {};
    const names = [...new Set([...Object.keys(room), ...counts.keys()])].sort();
    const rows = names.map((name) => {
      const used = counts.get(name) ?? 0;
      const free = room[name];
      const words = free === undefined ? `${used} stacks` : `${used} stacks, room for ${free} more`;
      const parts = [{ size: used, kind: "used" }, { size: free ?? 0, kind: "free" }];
      return h("li", {},
        h("span", { class: "name", title: name }, name),
        bar(parts, used + (free ?? 0), `${name}: ${words}`),
        h("span", { class: "num", "aria-hidden": "true" }, numbers.format(used)),
      );
    });
    const list = rows.length ? h("ul", { class: "nodes", tabindex: rows.length > 4 ? "0" : null, "aria-label": "Nodes" }, rows) : h("p", { class: "quiet" }, "no node has a stack");
    fill(this.places.nodes, h("h3", {}, h("b", { class: "big" }, String(names.length)), names.length === 1 ? " node" : " nodes"), list);
  }

  #ports() {
    const used = this.#stats?.used_node_ports;
    const free = this.#room?.ports;
    const words = free === undefined || free === null ? "" : `${numbers.format(free)} free`;
    const chart = used === undefined || !words ? null : bar([{ size: used, kind: used > 9 * free ? "full" : "used" }], used + free, `${used} of ${used + free} node ports are in use`);
    fill(this.places.ports,
      h("h3", {}, h("b", { class: "big" }, used === undefined ? "–" : numbers.format(used)), " ports in use"),
      chart,
      h("p", { class: "quiet" }, words),
    );
  }

  #left() {
    const room = this.#room;
    const stats = this.#stats;
    const reserved = stats ? `${(stats.reserved_cpu_milli / 1000).toFixed(1)} cores and ${memory(stats.reserved_memory_bytes)} reserved` : "";
    const limited = room ? `; ${ENDS[room.limited_by] ?? room.limited_by} first` : "";
    fill(this.places.room,
      h("h3", {}, room ? [h("b", { class: "big" }, numbers.format(room.fits)), " more fit"] : "Room"),
      h("p", { class: "quiet" }, room ? `of 100m CPU and 128 MiB${limited}` : "not known"),
      h("p", { class: "quiet" }, reserved),
    );
  }
}

function memory(bytes) {
  return bytes >= 2 ** 30 ? `${(bytes / 2 ** 30).toFixed(1)} GiB` : `${Math.round(bytes / 2 ** 20)} MiB`;
}
