// The panel of one stack: what it is, what can be done, what happened to it, and what it has written.

/** @import { Actions } from "./actions.js" */
/** @import { Port, Stack, Values } from "./stack.js" */
/** @import { Stacks } from "./stacks.js" */
/** @import { View } from "./view.js" */

import { button, copy, fill, h, say } from "../shared/dom.js";
import { History } from "./history.js";
import { WORDS } from "./stack.js";
import { age, full, left } from "./times.js";
import { tell } from "./toasts.js";

const LENGTHS = ["15m", "30m", "1h"];

export class Panel {
  /** @type {Sheet | null} */
  #sheet = null;

  /**
   * @param {HTMLElement} place
   * @param {Stacks} stacks
   * @param {Actions} actions
   */
  constructor(place, stacks, actions) {
    this.place = place;
    this.stacks = stacks;
    this.actions = actions;
    stacks.subscribe(() => this.#changed());
    setInterval(() => document.hidden || this.#sheet?.tick(), 1000);
  }

  /** The stack that is shown, or null. */
  get id() {
    return this.#sheet?.id ?? null;
  }

  /** @param {string} id */
  show(id) {
    this.#sheet?.history.stop();
    this.#sheet = new Sheet(id, this.actions, this.stacks.view);
    fill(this.place, ...this.#sheet.elements);
    this.place.hidden = false;
    this.#changed();
    this.#sheet.history.refresh();
    this.place.focus({ preventScroll: true });
  }

  hide() {
    this.#sheet?.history.stop();
    this.#sheet = null;
    this.place.hidden = true;
    fill(this.place);
  }

  #changed() {
    if (this.#sheet) this.#sheet.update(this.stacks.get(this.#sheet.id), this.stacks.arrived);
  }
}

/** What the panel shows of one stack. */
class Sheet {
  /** @type {Stack | null} */
  #stack = null;
  status = h("p", { class: "status" });
  why = h("p", { class: "why" });
  gone = h("p", { class: "banner", hidden: true }, "This stack is gone. Its timeline is kept for a while.");
  facts = h("dl", { class: "facts" });
  extend = h("div", { class: "buttons", role: "group", "aria-label": "Extend" });
  verbs = h("div", { class: "buttons", role: "group", "aria-label": "Change" });
  age = h("span");
  left = h("span");

  /**
   * @param {string} id
   * @param {Actions} actions
   * @param {View} view
   */
  constructor(id, actions, view) {
    this.id = id;
    this.actions = actions;
    this.view = view;
    this.history = new History(id, () => this.#writes);
    this.stop = this.#button("Stop", () => actions.stop(id));
    this.start = this.#button("Start", () => actions.start(id));
    this.#buttons();
    const { gone, status, why, facts, extend, verbs, history } = this;
    const { stacks } = actions;
    this.elements = [
      h(
        "header",
        {},
        h("h2", { id: "panel-name", class: "mono" }, id),
        button("Copy", () => copy(id, tell), { class: "plain", "aria-label": `Copy ${id}` }),
        h("span", { class: "spring" }),
        button("✕", () => view.close(), { class: "plain", "aria-label": "Close the panel" }),
      ),
      h(
        "div",
        { class: "content" },
        gone,
        status,
        why,
        facts,
        values(stacks.valuesOf(id)),
        extend,
        verbs,
        history.element,
      ),
    ];
  }

  /**
   * The stack as it is now; undefined once it is gone.
   *
   * @param {Stack | undefined} stack
   * @param {boolean} arrived
   */
  update(stack, arrived) {
    this.gone.hidden = Boolean(stack) || !arrived;
    for (const part of [this.extend, this.verbs]) part.hidden = !stack;
    if (!stack || stack === this.#stack) return;
    if (this.#stack) this.history.later();
    this.#stack = stack;
    this.#draw(stack);
  }

  /** Whether its containers may still write something. */
  get #writes() {
    if (!this.#stack) return true; // it is not known yet
    return this.gone.hidden && !this.#stack.ended && ["creating", "running"].includes(this.#stack.status);
  }

  /** What changes with the time alone. */
  tick() {
    if (!this.#stack) return;
    say(this.age, age(this.#stack.created_at));
    say(this.left, left(this.#stack.ttl_expires_at));
  }

  #buttons() {
    const { id, actions } = this;
    const lengths = LENGTHS.map((ttl) => this.#button(`+${ttl}`, () => actions.extend(id, ttl)));
    fill(this.extend, h("span", { class: "quiet" }, "Extend"), lengths, this.#other());
    fill(
      this.verbs,
      this.#button("Restart", () => actions.restart(id)),
      this.stop,
      this.start,
      h("span", { class: "spring" }),
      this.#button("Delete", () => actions.remove(id), "danger"),
    );
  }

  /**
   * @param {string} text
   * @param {() => Promise<unknown>} act
   */
  #button(text, act, kind = "") {
    const made = button(
      text,
      async () => {
        made.disabled = true;
        await act();
        made.disabled = false;
        this.history.refresh();
      },
      { class: kind },
    );
    return made;
  }

  #other() {
    const input = h("input", {
      type: "text",
      size: "5",
      placeholder: "45m",
      "aria-label": "Extend by another length of time",
      autocomplete: "off",
    });
    const form = h("form", { class: "other" }, input, h("button", { type: "submit" }, "Extend"));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const ttl = input.value.trim();
      if (ttl && (await this.actions.extend(this.id, ttl))) {
        input.value = "";
        this.history.refresh();
      }
    });
    return form;
  }

  /** @param {Stack} stack */
  #draw(stack) {
    say(this.status, WORDS[stack.status] ?? stack.status).dataset.status = stack.status;
    const words = [stack.status_reason, stack.status_message].filter(Boolean);
    say(this.why, words.join(": "));
    this.why.hidden = !words.length;
    this.stop.hidden = stack.status === "stopped" || stack.ended === true;
    this.start.hidden = stack.status !== "stopped";
    const addresses = stack.addresses.map((address, index) => addressLine(address, stack.ports?.[index]));
    const labels = stack.labelled.map((label) =>
      button(label, () => this.view.change({ label }), { class: "label mono", title: `Show all with ${label}` }),
    );
    fill(
      this.facts,
      fact("Address", addresses.length ? addresses : "none"),
      fact("Node", stack.node_id ?? "none"),
      fact("Time left", [this.left, h("span", { class: "quiet" }, ` until ${full(stack.ttl_expires_at)}`)]),
      fact("Age", [this.age, h("span", { class: "quiet" }, ` since ${full(stack.created_at)}`)]),
      fact("Labels", labels.length ? labels : "none"),
    );
    this.tick();
  }
}

/**
 * @param {string} name
 * @param {string | Node[]} value
 */
function fact(name, value) {
  return [h("dt", {}, name), h("dd", {}, value)];
}

/**
 * @param {string} address
 * @param {Port | undefined} port
 */
function addressLine(address, port) {
  const copied = button(address, () => copy(address, tell), { class: "plain mono", "aria-label": `Copy ${address}` });
  return h("div", {}, copied, port && h("span", { class: "quiet" }, ` → ${port.container_port}/${port.protocol}`));
}

/**
 * The values that were generated for a stack: the API tells them only once.
 *
 * @param {Values} [given]
 */
function values(given) {
  if (!given) return null;
  const rows = Object.entries(given).map(([name, value]) => {
    const copied = button("Copy", () => copy(value, () => tell(`copied ${name}`)), { "aria-label": `Copy ${name}` });
    return [h("dt", {}, name), h("dd", {}, h("code", {}, value), copied)];
  });
  const note = "They were generated for this stack and cannot be read again: copy them before this page is closed.";
  return h(
    "section",
    { class: "values" },
    h("h3", {}, "Values"),
    h("p", { class: "quiet" }, note),
    h("dl", {}, ...rows),
  );
}
