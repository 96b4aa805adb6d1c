// The panel of one stack: what it is, what can be done, what happened to it, and what it has written.

/** @import { Actions } from "./actions.js" */
/** @import { Port, Stack, Values } from "./stack.js" */
/** @import { Stacks } from "./stacks.js" */
/** @import { View } from "./view.js" */

import { button, copy, fill, h, show } from "../shared/dom.js";
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
    setInterval(() => document.hidden || this.#sheet?.draw(), 1000); // ages
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
    this.#sheet?.update(this.stacks.get(this.#sheet.id), this.stacks.arrived);
  }
}

/** What the panel shows of one stack. */
class Sheet {
  /** The stack as it was last seen. @type {Stack | null} */
  #stack = null;
  #gone = false;
  /** The buttons whose work goes on. @type {Set<string>} */
  #busy = new Set();
  body = h("div", { class: "now" });

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
    this.elements = [
      h(
        "header",
        {},
        h("h2", { id: "panel-name", class: "mono" }, id),
        button("Copy", () => copy(id, tell), { class: "plain", "aria-label": `Copy ${id}` }),
        h("span", { class: "spring" }),
        button("✕", () => view.close(), { class: "plain", "aria-label": "Close the panel" }),
      ),
      h("div", { class: "content" }, this.body, this.history.element),
    ];
  }

  /**
   * The stack as it is now; undefined once it is gone.
   *
   * @param {Stack | undefined} stack
   * @param {boolean} arrived
   */
  update(stack, arrived) {
    this.#gone = !stack && arrived;
    if (this.#stack && stack && stack !== this.#stack) this.history.later();
    this.#stack = stack ?? this.#stack;
    this.draw();
  }

  /** Whether its containers may still write something. */
  get #writes() {
    if (!this.#stack) return true; // it is not known yet
    return !this.#gone && !this.#stack.ended && ["creating", "running"].includes(this.#stack.status);
  }

  draw() {
    const { id, actions } = this;
    const stack = this.#stack;
    const gone = h("p", { class: "banner" }, "This stack is gone. Its timeline is kept for a while.");
    const extend = (/** @type {string} */ ttl) => this.#button(`+${ttl}`, () => actions.extend(id, ttl));
    const stopped = stack?.status === "stopped";
    show(
      this.body,
      this.#gone && gone,
      stack && this.#facts(stack),
      values(actions.stacks.valuesOf(id)),
      stack &&
        !this.#gone && [
          h(
            "div",
            { class: "buttons", role: "group", "aria-label": "Extend" },
            h("span", { class: "quiet" }, "Extend"),
            LENGTHS.map(extend),
            this.#other(),
          ),
          h(
            "div",
            { class: "buttons", role: "group", "aria-label": "Change" },
            this.#button("Restart", () => actions.restart(id)),
            !stopped && !stack.ended && this.#button("Stop", () => actions.stop(id)),
            stopped && this.#button("Start", () => actions.start(id)),
            h("span", { class: "spring" }),
            this.#button("Delete", () => actions.remove(id), "danger"),
          ),
        ],
    );
  }

  /**
   * @param {string} text
   * @param {() => Promise<unknown>} act
   */
  #button(text, act, kind = "") {
    return button(text, () => this.#do(text, act), { class: kind, disabled: this.#busy.has(text), "data-key": text });
  }

  /**
   * @param {string} text
   * @param {() => Promise<unknown>} act
   */
  async #do(text, act) {
    this.#busy.add(text);
    this.draw();
    await act();
    this.#busy.delete(text);
    this.draw();
    this.history.refresh();
  }

  /** Extend by what is typed: Enter in the field clicks the button, too. */
  #other() {
    const input = h("input", {
      type: "text",
      size: "5",
      placeholder: "45m",
      "aria-label": "Extend by another length of time",
      autocomplete: "off",
    });
    const submit = {
      type: "submit",
      disabled: this.#busy.has("other"),
      click: (/** @type {MouseEvent} */ event) => {
        event.preventDefault();
        const field = this.body.querySelector("input");
        if (field?.value.trim()) this.#do("other", () => this.#extend(field));
      },
    };
    return h("form", { class: "other" }, input, h("button", submit, "Extend"));
  }

  /** @param {HTMLInputElement} field */
  async #extend(field) {
    if (await this.actions.extend(this.id, field.value.trim())) field.value = "";
  }

  /** @param {Stack} stack */
  #facts(stack) {
    const why = [stack.status_reason, stack.status_message].filter(Boolean).join(": ");
    const addresses = stack.addresses.map((address, index) => addressLine(address, stack.ports?.[index]));
    const labels = stack.labelled.map((label) =>
      button(label, () => this.view.change({ label }), { class: "label mono", title: `Show all with ${label}` }),
    );
    const until = h("span", { class: "quiet" }, ` until ${full(stack.ttl_expires_at)}`);
    const since = h("span", { class: "quiet" }, ` since ${full(stack.created_at)}`);
    return [
      h("p", { class: "status", "data-status": stack.status }, WORDS[stack.status] ?? stack.status),
      why && h("p", { class: "why" }, why),
      h(
        "dl",
        { class: "facts" },
        fact("Address", addresses.length ? addresses : "none"),
        fact("Node", stack.node_id ?? "none"),
        fact("Time left", [h("span", {}, left(stack.ttl_expires_at)), until]),
        fact("Age", [h("span", {}, age(stack.created_at)), since]),
        fact("Labels", labels.length ? labels : "none"),
      ),
    ];
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
