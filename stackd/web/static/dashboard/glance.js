// The two lines above the table: how many stacks of each status and what room is left; and the templates, worst first.
//
// What has not arrived yet is a grey bar, and what stackd does not know is left out: never a zero.

/** @import { Stack, Stacks } from "./stacks.js" */

import { at, h, memo, numbers, show } from "../shared/dom.js";
import { ask, Refusal } from "./api.js";
import { STATUSES, WORDS } from "./stacks.js";
import { plural } from "./table.js";
import { tally } from "./trouble.js";

const EVERY = 10_000;
const SOON = 1_000; // after the stacks have changed
const TYPICAL = "cpu=100m&memory=128Mi";
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

/**
 * Answers of `/capacity` and `/templates`, as far as they are shown.
 *
 * @typedef {{ fits: number, limited_by: string, nodes: Record<string, number>, free_node_ports: number | null }} Capacity
 * @typedef {object} Template
 * @property {string} name
 * @property {string} ttl
 * @property {Record<string, string>} labels
 * @property {string[]} generates
 * @property {{ container_port: number, protocol: string }[]} target_port
 * @property {number | null} median_seconds_to_running
 * @property {number} pool
 * @property {number} ready
 * @property {number} starting
 * @property {number} failing
 * @property {string} reason
 * @property {Record<string, { state: string, reason: string }> | null} prepull
 */

export class Glance {
  /** Null where stackd has refused it, undefined before. @type {Capacity | null | undefined} */
  capacity;
  /** @type {Template[]} */
  #templates = [];
  #counted = "";
  /** @type {number | undefined} */
  #timer;
  /** @type {number | undefined} */
  #soon;

  /** @param {Stacks} stacks */
  constructor(stacks) {
    this.stacks = stacks;
    stacks.subscribe(() => this.#draw());
  }

  start() {
    this.#timer = setInterval(() => document.hidden || this.refresh(), EVERY);
    this.refresh();
  }

  stop() {
    clearInterval(this.#timer);
    this.capacity = undefined;
    this.#templates = [];
    this.#counted = "";
  }

  /** Ask for what does not come with the stacks. What does not arrive leaves what was last known. */
  async refresh() {
    this.#soon = undefined;
    const [capacity, templates] = await Promise.all([
      latest(ask("GET", `/capacity?${TYPICAL}`), this.capacity, null),
      latest(ask("GET", "/templates"), { templates: this.#templates }, { templates: [] }),
    ]);
    this.capacity = capacity;
    this.#templates = templates.templates;
    this.#draw();
  }

  #draw() {
    const { all, arrived, view } = this.stacks;
    const stacks = [...all.values()];
    const counts = STATUSES.map((status) => stacks.filter((stack) => stack.status === status).length);
    const now = counts.join();
    if (this.#counted && now !== this.#counted && arrived && !document.hidden)
      this.#soon ??= setTimeout(() => this.refresh(), SOON); // what the list does not tell has changed as well
    this.#counted = arrived ? now : "";
    const { trouble } = tally(stacks);
    const count = (/** @type {number} */ number) => h("b", {}, arrived ? numbers.format(number) : bone());
    const chips = STATUSES.map((status, place) => {
      const pressed = String(view.state.statuses.has(status));
      const dot = h("span", { class: "dot", "aria-hidden": "true" });
      const click = () => view.toggleStatus(status);
      const attributes = { type: "button", class: "chip", "aria-pressed": pressed, "data-status": status, click };
      return h("button", attributes, dot, count(counts[place] ?? 0), WORDS[status]);
    });
    const click = () => view.change({ trouble: view.state.trouble ? "" : "any" });
    const pressed = String(Boolean(view.state.trouble));
    const wrong = h(
      "button",
      { type: "button", class: ["chip", trouble > 0 && "wrong"], "aria-pressed": pressed, click },
      count(trouble),
      trouble === 1 ? "needs attention" : "need attention",
    );
    show(
      at("glance"),
      h("h3", {}, count(all.size), ` ${plural(all.size)}`),
      h("div", { class: "chips", role: "group", "aria-label": "Filter by status" }, chips, wrong),
      h("p", { class: "room quiet" }, this.#room()),
    );
    this.#drawTemplates(stacks);
  }

  #room() {
    if (this.capacity === undefined) return bone("line");
    if (this.capacity === null) return "what is free is unknown";
    const { fits, limited_by: limit, free_node_ports: ports } = this.capacity;
    const title = `of 100m CPU and 128 MiB; ${ENDS[limit] ?? limit} first`;
    const free = ports === null || limit === "ports" ? "" : `, ${numbers.format(ports)} ports free`;
    return h("span", { title }, `${numbers.format(fits)} more fit, ${ENDS[limit] ?? limit} first${free}`);
  }

  /** @param {Stack[]} stacks */
  #drawTemplates(stacks) {
    const mine = Map.groupBy(stacks, (stack) => stack.template ?? "");
    const rows = this.#templates.map((template) => {
      const found = mine.get(template.name) ?? [];
      const { top, weight, ...rest } = tally(found);
      const failing = Object.entries(template.prepull ?? {}).find(([, pull]) => pull.state === "failing");
      const why = top?.reason ?? (template.reason || (failing && `${failing[0]}: ${failing[1].reason}`));
      const running = found.filter((stack) => stack.status === "running").length;
      return { template, why, running, weight: weight + (why ? 0.5 : 0), ...rest };
    });
    rows.sort((one, other) => other.weight - one.weight || (one.template.name < other.template.name ? -1 : 1));
    at("templates").hidden = rows.length === 0;
    show(
      at("templates"),
      rows.map(({ template, why, running, total, trouble, counts }) => {
        const { name, pool, ready } = template;
        const pressed = this.stacks.view.state.template === name;
        const bad = trouble - counts.expiring;
        const inputs = [JSON.stringify(template), why, running, total, bad, pressed];
        return memo(name, inputs, () => {
          const details = [
            `${running} of ${total} running`,
            poolOf(template),
            startOf(template),
            imagesOf(template),
            why,
          ];
          const attributes = {
            type: "button",
            class: ["template", why && bad * 2 >= total && "wrong"], // red where most are broken, or none can start
            "data-template": name,
            "aria-pressed": String(pressed),
            title: details.filter(Boolean).join("\n"),
            click: () => this.stacks.view.change({ template: pressed ? "" : name }),
          };
          const words = `${bad ? `${running} of ${total}` : numbers.format(running)} running`;
          const pooled = pool > 0 && h("span", { class: "quiet" }, `${ready} of ${pool} ready`);
          const reason = (bad > 0 || !total) && why && h("span", { class: "why" }, why);
          return h("button", attributes, h("b", {}, name), h("span", {}, words), pooled, reason);
        });
      }),
    );
  }

  /** How many more stacks a node takes; null where that is not known. @param {string} node */
  roomOn(node) {
    return this.capacity ? (this.capacity.nodes[node] ?? 0) : null;
  }
}

/** What stands in the place of something that is not known yet. */
const bone = (kind = "digit") => h("span", { class: `bone ${kind}`, "aria-hidden": "true" });

/**
 * The answer; what was known before where stackd did not answer, and `refused` where it refused.
 *
 * @template Answer
 * @param {Promise<Answer>} asked @param {Answer} before @param {Answer} refused
 */
async function latest(asked, before, refused) {
  try {
    return await asked;
  } catch (error) {
    return error instanceof Refusal && error.status ? refused : before;
  }
}

/** @param {Template} template */
function poolOf({ pool, ready, starting, failing }) {
  if (!pool && !ready && !starting && !failing) return "no pool";
  const parts = [`${ready} of ${pool} ready`, starting && `${starting} starting`, failing && `${failing} failing`];
  return `pool: ${parts.filter(Boolean).join(", ")}`;
}

/** @param {Template} template */
function startOf({ median_seconds_to_running: seconds }) {
  if (seconds === null) return "";
  return `runs after ${seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`} (median)`;
}

/** @param {Template} template */
function imagesOf({ prepull }) {
  if (!prepull) return "";
  const states = Object.values(prepull);
  const there = states.filter(({ state }) => state === "pulled").length;
  return `images on ${there} of ${states.length} ${states.length === 1 ? "node" : "nodes"}`;
}
