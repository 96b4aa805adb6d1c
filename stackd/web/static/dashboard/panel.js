// The panel of one stack: what it is, what can be done, what happened to it, and what it has written.

import { copy, fill, h, say } from "../shared/dom.js";
import { History } from "./history.js";
import { WORDS } from "./stacks.js";
import { tell } from "./toasts.js";
import { age, full, left } from "./times.js";

const LENGTHS = ["15m", "30m", "1h"];

export class Panel {
  #id = null;
  #stack = null;
  #parts = null;

  constructor(place, stacks, actions, closed) {
    this.place = place;
    this.stacks = stacks;
    this.actions = actions;
    this.closed = closed;
    stacks.subscribe(() => this.#changed());
    setInterval(() => this.#tick(), 1000);
  }

  get id() {
    return this.#id;
  }

  open(id) {
    this.#id = id;
    this.#stack = null;
    this.history = new History(id);
    this.#build(id);
    this.place.hidden = false;
    document.body.classList.add("has-panel");
    this.#changed();
    this.history.refresh();
    this.place.focus({ preventScroll: true });
  }

  close() {
    if (!this.#id) return;
    const id = this.#id;
    this.#id = null;
    this.place.hidden = true;
    document.body.classList.remove("has-panel");
    fill(this.place);
    this.closed(id);
  }

  #build(id) {
    const close = h("button", { type: "button", class: "plain", "aria-label": "Close the panel" }, "✕");
    close.addEventListener("click", () => this.close());
    const copyId = h("button", { type: "button", class: "plain", "aria-label": `Copy ${id}` }, "Copy");
    copyId.addEventListener("click", () => copy(id, tell));
    this.#parts = {
      status: h("p", { class: "status" }),
      why: h("p", { class: "why" }),
      gone: h("p", { class: "banner", hidden: true }, "This stack is gone. Its timeline is kept for a while."),
      facts: h("dl", { class: "facts" }),
      extend: h("div", { class: "buttons", role: "group", "aria-label": "Extend" }),
      verbs: h("div", { class: "buttons", role: "group", "aria-label": "Change" }),
    };
    this.#buttons(id);
    const { status, why, gone, facts, extend, verbs } = this.#parts;
    fill(
      this.place,
      h("header", {}, h("h2", { id: "panel-name", class: "mono" }, id), copyId, h("span", { class: "spring" }), close),
      h("div", { class: "content" }, gone, status, why, facts, extend, verbs, this.history.element),
    );
  }

  #buttons(id) {
    const button = (text, act, kind = "") => {
      const made = h("button", { type: "button", class: kind }, text);
      made.addEventListener("click", async () => {
        made.disabled = true;
        await act();
        made.disabled = false;
        this.history.refresh();
      });
      return made;
    };
    fill(this.#parts.extend, h("span", { class: "quiet" }, "Extend"), LENGTHS.map((ttl) => button(`+${ttl}`, () => this.actions.extend(id, ttl))), this.#other(id));
    this.stop = button("Stop", () => this.actions.stop(id));
    this.start = button("Start", () => this.actions.start(id));
    fill(this.#parts.verbs,
      button("Restart", () => this.actions.restart(id)),
      this.stop,
      this.start,
      h("span", { class: "spring" }),
      button("Delete", () => this.actions.remove(id), "danger"),
    );
  }

  #other(id) {
    const input = h("input", { type: "text", size: "5", placeholder: "45m", "aria-label": "Extend by another length of time", autocomplete: "off" });
    const form = h("form", { class: "other" }, input, h("button", { type: "submit" }, "Extend"));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (input.value.trim() && (await this.actions.extend(id, input.value.trim()))) {
        input.value = "";
        this.history.refresh();
      }
    });
    return form;
  }

  #changed() {
    if (!this.#id) return;
    const stack = this.stacks.get(this.#id);
    this.#parts.gone.hidden = Boolean(stack) || !this.stacks.arrived;
    for (const part of [this.#parts.extend, this.#parts.verbs]) part.hidden = !stack;
    if (!stack || stack === this.#stack) return;
    if (this.#stack) this.history.later();
    this.#stack = stack;
    this.#draw(stack);
  }

  #draw(stack) {
    const { status, why, facts } = this.#parts;
    say(status, WORDS[stack.status] ?? stack.status).dataset.status = stack.status;
    const words = [stack.status_reason, stack.status_message].filter(Boolean);
    say(why, words.join(": "));
    why.hidden = !words.length;
    this.stop.hidden = stack.status === "stopped" || stack.ended;
    this.start.hidden = stack.status !== "stopped";
    this.age = h("span", {});
    this.left = h("span", {});
    const rows = [
      ["Address", stack.addresses.length ? stack.addresses.map((address, index) => this.#address(address, stack.ports[index])) : "none"],
      ["Node", stack.node_id ?? "none"],
      ["Time left", [this.left, h("span", { class: "quiet" }, ` until ${full(stack.ttl_expires_at)}`)]],
      ["Age", [this.age, h("span", { class: "quiet" }, ` since ${full(stack.created_at)}`)]],
      ["Labels", stack.labelled.length ? stack.labelled.map((label) => h("span", { class: "label mono" }, label)) : "none"],
    ];
    fill(facts, rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]).flat());
    this.#tick();
  }

  #address(address, port) {
    const button = h("button", { type: "button", class: "plain mono", "aria-label": `Copy ${address}` }, address);
    button.addEventListener("click", () => copy(address, tell));
    return h("div", {}, button, h("span", { class: "quiet" }, ` → ${port.container_port}/${port.protocol}`));
  }

  #tick() {
    if (!this.#stack || !this.#id || document.hidden) return;
    say(this.age, age(this.#stack.created_at));
    say(this.left, left(this.#stack.ttl_expires_at));
  }
}
