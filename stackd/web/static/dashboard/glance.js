// The two lines above the table: how many stacks of each status and what room is left; and the templates, worst first.
//
// What has not arrived yet is “…”, and what stackd does not know is left out: never a zero.

/** @import { Stack, Stacks, Status } from "./stacks.js" */

import { at, h, memo, numbers, quiet, show, steady } from "../shared/dom.js";
import { ask, Refusal } from "./api.js";
import { STATUSES } from "./arrange.js";
import { WORDS } from "./stacks.js";
import { plural } from "./table.js";
import { full, stamp } from "./times.js";
import { expiresSoon, kindOf, tally, wordsOf } from "./trouble.js";

const EVERY = 10_000;
const SOON = 1_000; // after the stacks have changed
const TYPICAL = "cpu=100m&memory=128Mi";
/** @type {Status[]} */
const WORST_FIRST = ["failed", "node_deleted", "creating", "stopped", "running"];
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
    this.stacks.checked = new Map(
      this.#templates.flatMap(({ checked }) => (checked ? [[checked.stack_id, checked]] : [])),
    );
    this.#draw();
  }

  #draw() {
    const { all, arrived, view } = this.stacks;
    const stacks = [...all.values()];
    const counts = STATUSES.map((status) => stacks.filter((stack) => stack.status === status).length);
    const { trouble } = tally(stacks);
    const now = [counts, trouble].join();
    const isRush = view.state.players !== ""; // a class begins, and is no slower for whoever watches it
    if (this.#counted && now !== this.#counted && arrived && !document.hidden && !isRush)
      this.#soon ??= setTimeout(() => this.refresh(), SOON); // what the list does not tell has changed as well
    this.#counted = arrived ? now : "";
    const soon = stacks.filter((stack) => expiresSoon(stack)).length;
    const count = (/** @type {number} */ number) => h("b", {}, arrived ? numbers.format(number) : "…");
    /** @param {string} key @param {number} number @param {string} words @param {boolean} on @param {() => void} click @param {Status | null} [status] */
    const chip = (key, number, words, on, click, status = null) => {
      const kind = ["chip", key === "any" && number > 0 && "wrong", number === 0 && "none"];
      const look = { type: "button", class: kind, "aria-pressed": String(on), "data-status": status, "data-key": key };
      const dot = status && h("span", { class: "dot", "aria-hidden": "true" });
      return h("button", { ...look, click }, dot, count(number), words);
    };
    const chips = WORST_FIRST.map((status) => {
      const [number, on] = [counts[STATUSES.indexOf(status)] ?? 0, view.state.statuses.has(status)];
      return chip(status, number, WORDS[status], on, () => view.toggleStatus(status), status);
    });
    const { trouble: chosen } = view.state;
    const toggle = (/** @type {string} */ kind) => view.change({ trouble: chosen === kind ? "" : kind });
    const words = trouble === 1 ? "needs attention" : "need attention";
    const wrong = chip("any", trouble, words, Boolean(chosen) && chosen !== "expiring", () => toggle("any"));
    const ending = soon === 1 ? "expires soon" : "expire soon";
    const expiring = chip("expiring", soon, ending, chosen === "expiring", () => toggle("expiring"));
    show(
      at("glance"),
      h("h3", {}, count(all.size), ` ${plural(all.size)}`),
      h("p", { class: "room quiet" }, this.#room()),
      h("div", { class: "row", role: "group", "aria-label": "Filter by status" }, wrong, chips, soon > 0 && expiring),
    );
    this.#drawTemplates(stacks);
  }

  #room() {
    if (this.capacity === undefined) return "…";
    if (this.capacity === null) return "what is free is unknown";
    const { fits, limited_by: limit, free_node_ports: ports, spare_services: spares = 0 } = this.capacity;
    const free = ports === null || limit === "ports" ? "" : `, ${numbers.format(ports)} ports free`;
    const ready = spares ? `, ${numbers.format(spares)} spare Services` : "";
    const text = `${numbers.format(fits)} more fit, limited by ${limit.replaceAll("_", " ")}${free}${ready}`;
    return h("span", { title: "Stacks of 100m CPU and 128 MiB" }, text);
  }

  /** @param {Stack[]} stacks */
  #drawTemplates(stacks) {
    const mine = Map.groupBy(stacks, (stack) => stack.template ?? "");
    const rows = this.#templates.map((template) => {
      const found = mine.get(template.name) ?? [];
      const { top, weight, ...rest } = tally(found);
      const failing = Object.entries(template.prepull ?? {}).find(([, pull]) => pull.state === "failing");
      const checked = template.checked?.healthy === false && "CheckFailed";
      const why =
        checked || (top ? wordsOf(top.reason) : template.reason || (failing && `${failing[0]}: ${failing[1].reason}`));
      const running = found.filter((stack) => stack.status === "running" && !kindOf(stack)).length;
      return { template, why, running, checked, weight: weight + (why ? 0.5 : 0), ...rest };
    });
    rows.sort((one, other) => other.weight - one.weight || (one.template.name < other.template.name ? -1 : 1));
    const line = at("templates");
    line.hidden = rows.length === 0;
    const buttons = rows.map(({ template, why, running, total, checked, trouble: bad }) => {
      const { name, pool, ready } = template;
      const pressed = this.stacks.view.state.template === name;
      const inputs = [JSON.stringify(template), why, running, total, bad, pressed];
      return memo(name, inputs, () => {
        const details = [`${running} of ${total} working`, ...about(template), why, template.checked?.message];
        const attributes = {
          type: "button",
          class: ["template", why && (checked || bad * 2 >= total) && "wrong"], // red where most are broken, or none can start
          "data-template": name,
          "aria-pressed": String(pressed),
          title: details.filter(Boolean).join("\n"),
          click: () => this.stacks.view.change({ template: pressed ? "" : name }),
        };
        const words = bad ? `${running} of ${total} working` : `${numbers.format(running)} running`;
        const pooled = template.shared ? quiet("for everybody") : pool > 0 && quiet(`${ready} of ${pool} ready`);
        const reason = (bad > 0 || !total || checked) && why && h("span", { class: "why" }, why);
        const when = checked && template.checked && stamp(template.checked.at);
        return h("button", attributes, h("b", {}, name), h("span", {}, words), pooled, reason, when);
      });
    });
    show(line, steady(line, buttons));
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

/** What a template is called, where it is from, its pool, starts and images, and what its check says. @param {Template} template */
function about({ pool, ready, starting, failing, median_seconds_to_running: seconds, prepull, ...more }) {
  const { title, category, source, version, shared, checked } = more;
  const states = Object.values(prepull ?? {});
  const pulled = states.filter(({ state }) => state === "pulled").length;
  return [
    [title, category].filter(Boolean).join(", "),
    source !== "file" && `${source === "api" ? "written over the API" : "from the cluster"}, version ${version}`,
    shared
      ? "one stack for everybody"
      : pool
        ? `pool: ${ready} of ${pool} ready, ${starting} starting, ${failing} failing`
        : "no pool",
    seconds !== null && `runs after ${seconds < 1 ? seconds.toFixed(3) : seconds.toFixed(1)} s (median)`,
    checked && checked.healthy !== null && `check ${checked.healthy ? "passed" : "failed"} ${full(checked.at)}`,
    checked?.trouble && `the check cannot be run: ${checked.trouble}`,
    prepull && `images on ${pulled} of ${states.length} nodes`,
  ];
}
