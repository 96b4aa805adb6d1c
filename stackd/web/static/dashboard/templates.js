// Per challenge: each template with its stacks, its pool and how long a start takes.

/** @import { View } from "./view.js" */

import { button, h, show } from "../shared/dom.js";
import { ask, Refusal } from "./api.js";
import { numbers } from "./bar.js";

const EVERY = 10_000;

/**
 * A template as the API tells of it.
 *
 * @typedef {object} Template
 * @property {string} name
 * @property {string} ttl
 * @property {Record<string, string>} labels
 * @property {string[]} generates
 * @property {{ container_port: number, protocol: string }[]} target_port
 * @property {Record<string, number>} stacks
 * @property {number | null} median_seconds_to_running
 * @property {number} pool
 * @property {number} ready
 * @property {number} starting
 * @property {number} failing
 * @property {string} reason
 * @property {Record<string, { state: string, reason: string }> | null} prepull
 */

export class Templates {
  /** @type {number | undefined} */
  #timer;

  /**
   * @param {HTMLElement} place
   * @param {View} view
   * @param {(name: string) => void} create
   */
  constructor(place, view, create) {
    this.place = place;
    this.view = view;
    this.create = create;
  }

  start() {
    this.#timer = setInterval(() => document.hidden || this.refresh(), EVERY);
    this.refresh();
  }

  stop() {
    clearInterval(this.#timer);
    this.#draw([]);
  }

  /** Ask for them. What does not arrive leaves what was last known. */
  async refresh() {
    try {
      this.#draw((await ask("GET", "/templates")).templates);
    } catch (error) {
      if (error instanceof Refusal && error.status) this.#draw([]);
    }
  }

  /** @param {Template[]} templates */
  #draw(templates) {
    this.place.hidden = templates.length === 0;
    const list = { class: "templates", tabindex: templates.length > 8 ? "0" : null };
    show(
      this.place,
      h("h3", {}, "Templates"),
      h(
        "ul",
        list,
        templates.map((template) => this.#row(template)),
      ),
    );
  }

  /** @param {Template} template */
  #row(template) {
    const { name } = template;
    const find = button(name, () => this.view.change({ template: name }), {
      class: "plain name",
      title: `Show the stacks of ${name}`,
    });
    const add = button("New", () => this.create(name), { "aria-label": `New ${name}` });
    const trouble = troubleOf(template);
    return h(
      "li",
      { "data-template": name, "data-key": name },
      h("div", { class: "head" }, find, h("span", { class: "spring" }), add),
      h("p", {}, h("b", { class: "big" }, numbers.format(template.stacks.running ?? 0)), ` ${restOf(template.stacks)}`),
      h("p", { class: "quiet" }, poolOf(template)),
      h("p", { class: "quiet" }, startOf(template), imagesOf(template)),
      trouble && h("p", { class: "trouble", title: trouble }, trouble),
    );
  }
}

/** @param {Record<string, number>} stacks */
function restOf(stacks) {
  const others = [
    stacks.creating && `${stacks.creating} creating`,
    stacks.failed && `${stacks.failed} failed`,
    stacks.stopped && `${stacks.stopped} stopped`,
    stacks.node_deleted && `${stacks.node_deleted} lost their node`,
  ].filter(Boolean);
  return ["running", ...others].join(", ");
}

/** @param {Template} template */
function poolOf({ pool, ready, starting, failing }) {
  if (!pool && !ready && !starting && !failing) return "no pool";
  const parts = [`${ready} of ${pool} ready`, starting && `${starting} starting`, failing && `${failing} failing`];
  return `pool: ${parts.filter(Boolean).join(", ")}`;
}

/** @param {Template} template */
function startOf({ median_seconds_to_running: seconds }) {
  if (seconds === null) return "none started within the hour";
  const words = seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`;
  return `runs after ${words} (median)`;
}

/** @param {Template} template */
function imagesOf({ prepull }) {
  if (!prepull) return "";
  const states = Object.values(prepull);
  const there = states.filter(({ state }) => state === "pulled").length;
  return `; images on ${there} of ${states.length} ${states.length === 1 ? "node" : "nodes"}`;
}

/** @param {Template} template */
function troubleOf({ reason, prepull }) {
  if (reason) return reason;
  const failing = Object.entries(prepull ?? {}).find(([, pull]) => pull.state === "failing");
  return failing && `${failing[0]}: ${failing[1].reason}`;
}
