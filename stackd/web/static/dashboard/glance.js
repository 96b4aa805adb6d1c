// The two lines above the table: how many stacks of each status and what room is left; and the templates, worst first.
//
// What has not arrived yet is “…”, and what stackd does not know is left out: never a zero.

/** @import { Stack, Stacks } from "./stacks.js" */

import { at, h, memo, numbers, quiet, show } from "../shared/dom.js";
import { ask, Refusal } from "./api.js";
import { STATUSES, WORDS } from "./stacks.js";
import { plural } from "./table.js";
import { tally } from "./trouble.js";

const EVERY = 10_000;
const SOON = 1_000; // after the stacks have changed
const TYPICAL = "cpu=100m&memory=128Mi";
/**
 * Answers of `/capacity` and `/templates`, as far as they are shown.
 *
 * @typedef {import("./stacks.js").Schemas["Capacity"]} Capacity
 * @typedef {import("./stacks.js").Schemas["Template"]} Template
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
    const count = (/** @type {number} */ number) => h("b", {}, arrived ? numbers.format(number) : "…");
    /** @param {boolean} on @param {() => void} click @param {string | null} status @param {import("../shared/dom.js").Child[]} words */
    const chip = (on, click, status, ...words) => {
      const kind = ["chip", !status && trouble > 0 && "wrong"];
      return h(
        "button",
        { type: "button", class: kind, "aria-pressed": String(on), "data-status": status, click },
        ...words,
      );
    };
    const chips = STATUSES.map((status, place) => {
      const dot = h("span", { class: "dot", "aria-hidden": "true" });
      const on = view.state.statuses.has(status);
      return chip(on, () => view.toggleStatus(status), status, dot, count(counts[place] ?? 0), WORDS[status]);
    });
    const toggle = () => view.change({ trouble: view.state.trouble ? "" : "any" });
    const words = trouble === 1 ? "needs attention" : "need attention";
    const wrong = chip(Boolean(view.state.trouble), toggle, null, count(trouble), words);
    show(
      at("glance"),
      h("h3", {}, count(all.size), ` ${plural(all.size)}`),
      h("div", { class: "row", role: "group", "aria-label": "Filter by status" }, chips, wrong),
      h("p", { class: "room quiet" }, this.#room()),
    );
    this.#drawTemplates(stacks);
  }

  #room() {
    if (this.capacity === undefined) return "…";
    if (this.capacity === null) return "what is free is unknown";
    const { fits, limited_by: limit, free_node_ports: ports } = this.capacity;
    const free = ports === null || limit === "ports" ? "" : `, ${numbers.format(ports)} ports free`;
    const text = `${numbers.format(fits)} more fit, limited by ${limit.replaceAll("_", " ")}${free}`;
    return h("span", { title: "Stacks of 100m CPU and 128 MiB" }, text);
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
          const details = [`${running} of ${total} running`, ...about(template), why];
          const attributes = {
            type: "button",
            class: ["template", why && bad * 2 >= total && "wrong"], // red where most are broken, or none can start
            "data-template": name,
            "aria-pressed": String(pressed),
            title: details.filter(Boolean).join("\n"),
            click: () => this.stacks.view.change({ template: pressed ? "" : name }),
          };
          const words = `${bad ? `${running} of ${total}` : numbers.format(running)} running`;
          const pooled = pool > 0 && quiet(`${ready} of ${pool} ready`);
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

/** The pool, the starts and the images of a template. @param {Template} template */
function about({ pool, ready, starting, failing, median_seconds_to_running: seconds, prepull }) {
  const states = Object.values(prepull ?? {});
  const pulled = states.filter(({ state }) => state === "pulled").length;
  return [
    pool ? `pool: ${ready} of ${pool} ready, ${starting} starting, ${failing} failing` : "no pool",
    seconds !== null && `runs after ${seconds < 1 ? seconds.toFixed(3) : seconds.toFixed(1)} s (median)`,
    prepull && `images on ${pulled} of ${states.length} nodes`,
  ];
}
