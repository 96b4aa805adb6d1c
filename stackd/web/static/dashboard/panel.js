// The panel of one stack: what it is, what can be done, what happened to it, and what it has written.

/** @import { Child } from "../shared/dom.js" */
/** @import { Action, Actions } from "./bulk.js" */
/** @import { Address, Stack, Stacks, Values } from "./stacks.js" */
/** @import { View } from "./view.js" */

import { button, copy, h, quiet, say, show } from "../shared/dom.js";
import { openAccess } from "./access.js";
import { ask, pathOf, sentence } from "./api.js";
import { quoted } from "./arrange.js";
import { tell } from "./dialogs.js";
import { Logs } from "./logs.js";
import { reasonLink, wordOf } from "./table.js";
import { full, left, length, now, stamp } from "./times.js";
import { kindOf, reasonOf } from "./trouble.js";

const LENGTHS = ["15m", "30m", "1h"];
const SOON = 400;
const WRONG = new Set(["failed", "warning", "node_deleted", "not_ready", "unhealthy"]);

/** @typedef {"Timeline" | "Logs" | "Pod spec"} Part */
/** An entry of a timeline. @typedef {{ at: string, kind: string, reason?: string, message?: string, by?: string }} Entry */

export class Panel {
  /** @type {Sheet | null} */
  #sheet = null;
  /** What the next stack is opened with. @type {Part} */
  part = "Timeline";

  /** @param {HTMLElement} place @param {Stacks} stacks @param {Actions} actions */
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
    this.#sheet = new Sheet(id, this.actions, this.stacks.view, this.part);
    this.part = "Timeline";
    this.place.replaceChildren(...this.#sheet.elements);
    this.place.hidden = false;
    this.#changed();
    this.#sheet.history.refresh();
    this.place.focus({ preventScroll: true });
  }

  hide() {
    this.#sheet?.history.stop();
    this.#sheet = null;
    this.place.hidden = true;
    this.place.replaceChildren();
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

  /** @param {string} id @param {Actions} actions @param {View} view @param {Part} part */
  constructor(id, actions, view, part) {
    this.id = id;
    this.actions = actions;
    this.view = view;
    this.history = new History(id, part, () => this.#writes);
    this.elements = [
      h(
        "header",
        { class: "row" },
        h("h2", { id: "panel-name", class: "mono" }, id),
        button("Copy", () => copy(id, tell), { class: "plain", "aria-label": `Copy ${id}` }),
        h("span", { class: "spring" }),
        button("✕", () => view.close(), { class: "plain", "aria-label": "Close the panel" }),
      ),
      h("div", { class: "content" }, this.body, this.history.element),
    ];
  }

  /** The stack as it is now; undefined once it is gone. @param {Stack | undefined} stack @param {boolean} arrived */
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
    const stack = this.#stack;
    const stopped = stack?.status === "stopped";
    const groups = stack &&
      !this.#gone && [
        !stack.ended &&
          h(
            "div",
            { class: "buttons writes", role: "group", "aria-label": "Extend" },
            h("span", { class: "quiet wide" }, "Extend"),
            LENGTHS.map((ttl) => this.#button(`+${ttl}`, () => this.#act("extend", ttl))),
            this.#button("Extend…", () => this.actions.many("extend", () => [this.id], "")),
          ),
        h(
          "div",
          { class: "buttons writes", role: "group", "aria-label": "Change" },
          this.#button("Restart", () => this.#act("restart")),
          !stopped && !stack.ended && this.#button("Stop", () => this.#act("stop")),
          stopped && this.#button("Start", () => this.#act("start")),
          button("Link for a player…", () => openAccess(stack), { "data-key": "link" }),
          h("span", { class: "spring" }),
          this.#button("Delete", () => this.#act("delete"), "danger"),
        ),
      ];
    show(
      this.body,
      this.#gone && h("p", { class: "banner" }, "This stack is gone. Its timeline is kept for a while."),
      stack && this.#facts(stack),
      valuesOf(this.actions.stacks.values.get(this.id)),
      groups,
    );
  }

  /** @param {Action} action @param {string} [ttl] */
  #act(action, ttl) {
    return this.actions.one(action, this.id, ttl);
  }

  /** @param {string} text @param {() => Promise<unknown>} act */
  #button(text, act, kind = "") {
    const click = () => this.#busy.has(text) || this.#do(text, act); // a disabled button would lose the focus
    return button(text, click, { class: kind, "aria-busy": this.#busy.has(text) && "true", "data-key": text });
  }

  /** @param {string} text @param {() => Promise<unknown>} act */
  async #do(text, act) {
    this.#busy.add(text);
    this.draw();
    await act();
    this.#busy.delete(text);
    this.draw();
    this.history.refresh();
  }

  /** @param {Stack} stack */
  #facts(stack) {
    const kind = kindOf(stack);
    const addresses = stack.addresses.map(addressLine);
    const labels = stack.labelled.map((text) =>
      button(text, () => this.view.narrow({ text: quoted(text) }), {
        class: "label mono",
        title: `Show all with ${text}`,
      }),
    );
    const why = [!kind && stack.status_reason, stack.status_message].filter(Boolean).join(": ");
    const { checked } = this.actions.stacks;
    const check = checked.get(this.id);
    const end = stack.expires === Infinity ? null : quiet(` until ${full(stack.ttl_expires_at)}`);
    return [
      h("p", { class: "status", "data-status": stack.status, "data-kind": kind }, wordOf(stack, kind)),
      (kind || why) &&
        h("p", { class: "cause" }, kind && reasonLink(stack, reasonOf(stack, kind)), kind && why && ": ", why),
      h(
        "dl",
        { class: "facts" },
        stack.player ? fact("Player", stack.player) : [],
        stack.template ? fact("Template", stack.template) : [],
        fact("Address", addresses.length ? addresses : "none"),
        fact("Node", stack.node_id ?? "none"),
        stack.members
          ? fact(
              "Members",
              stack.members.map(({ name, node_id }) => h("p", {}, name, quiet(` on ${node_id ?? "no node"}`))),
            )
          : [],
        check ? fact("Last check", checkLine(check)) : [],
        fact("Time left", [h("span", {}, left(stack.expires)), end]),
        fact("Age", [h("span", {}, length(now() - stack.created)), quiet(` since ${full(stack.created_at)}`)]),
        fact("Labels", labels.length ? labels : "none"),
      ),
    ];
  }
}

/** Timeline, logs and pod spec of one stack; one of them is open. All three are hostile text. */
class History {
  /** @type {number | undefined} */
  #timer;

  /** `live` says whether the stack may still write something. @param {string} id @param {Part} part @param {() => boolean} live */
  constructor(id, part, live) {
    this.id = id;
    this.logs = new Logs(id, live);
    /** @type {Record<Part, HTMLDetailsElement>} */
    this.parts = {
      Timeline: this.#part("Timeline", quiet("…")),
      Logs: this.#part("Logs", this.logs.element),
      "Pod spec": this.#part("Pod spec", quiet("…")),
    };
    this.parts[part].open = true;
    this.element = h("div", { class: "history" }, Object.values(this.parts));
  }

  /** Ask again for what is shown. */
  async refresh() {
    clearTimeout(this.#timer);
    if (this.parts.Logs.open) await this.logs.start();
    else this.logs.stop();
    if (this.parts.Timeline.open) await load(this.parts.Timeline, () => this.#timeline());
    if (this.parts["Pod spec"].open) await load(this.parts["Pod spec"], () => this.#spec());
  }

  /** Ask again in a moment: the stack has changed, and may again. */
  later() {
    clearTimeout(this.#timer);
    if (!this.parts["Pod spec"].open) this.#timer = setTimeout(() => this.refresh(), SOON);
  }

  /** Nobody looks any more. */
  stop() {
    clearTimeout(this.#timer);
    this.logs.stop();
  }

  /** @param {Part} name @param {HTMLElement} content */
  #part(name, content) {
    const part = h("details", { name: "about" }, h("summary", {}, name), h("div", {}, content));
    part.addEventListener("toggle", () => part.isConnected && this.refresh());
    return part;
  }

  async #timeline() {
    /** @type {{ events: Entry[] }} */
    const { events } = await ask("GET", pathOf(this.id, "timeline"));
    if (!events.length) return quiet("Nothing is known.");
    const entries = events.toReversed().map(({ at, kind, reason, message, by }) => {
      const said = [reason, message].filter(Boolean).join(": ");
      const what = h("div", {}, h("b", {}, kind.replaceAll("_", " ")), by ? quiet(` by ${by}`) : null);
      if (said) what.append(h("p", { class: "said" }, said));
      return h("li", { class: WRONG.has(kind) ? "wrong" : null }, stamp(at), what);
    });
    return h("ol", { class: "timeline" }, entries);
  }

  async #spec() {
    const stack = await ask("GET", pathOf(this.id));
    return say(h("pre", { class: "sunken", tabindex: "0", "aria-label": "Pod spec" }), stack.pod_spec);
  }
}

/** Show what is asked for, or why it did not come. @param {HTMLElement} part @param {() => Promise<Child>} content */
async function load(part, content) {
  const body = part.lastElementChild ?? part;
  try {
    show(body, await content());
  } catch (error) {
    show(body, h("p", { class: "quiet", role: "status" }, sentence(error)));
  }
}

/** When a stack was checked last, and what that said. @param {import("./stacks.js").Checked} check */
function checkLine({ at, healthy, failures, trouble }) {
  const times = failures > 1 ? ` (${failures} times in a row)` : "";
  const said = healthy === null ? "not yet" : healthy ? "passed " : `failed${times} `;
  return [said, healthy === null ? null : stamp(at), trouble && `; since then it could not be run: ${trouble}`];
}

/** @param {string} name @param {import("../shared/dom.js").Child} value */
const fact = (name, value) => [h("dt", {}, name), h("dd", {}, value)];

/** @param {Address} address */
function addressLine({ text, port, protocol }) {
  const copied = button(text, () => copy(text, tell), { class: "plain mono", "aria-label": `Copy ${text}` });
  return h("div", {}, copied, quiet(` → ${port}/${protocol}`));
}

/** The values that were generated for a stack: the API tells them only once. @param {Values} [values] */
function valuesOf(values) {
  if (!values) return null;
  const rows = Object.entries(values).map(([name, value]) => {
    const copied = button("Copy", () => copy(value, () => tell(`copied ${name}`)), { "aria-label": `Copy ${name}` });
    return [h("dt", {}, name), h("dd", { class: "row" }, h("code", {}, value), copied)];
  });
  const note = "They were generated for this stack and cannot be read again: copy them before this page is closed.";
  return h(
    "section",
    { class: "values sunken" },
    h("h3", {}, "Values"),
    h("p", { class: "quiet" }, note),
    h("dl", {}, ...rows),
  );
}
