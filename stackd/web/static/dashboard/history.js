// Timeline, logs and pod spec of one stack; one of them is open. All three are hostile text.

import { h, say, show } from "../shared/dom.js";
/** @import { Child } from "../shared/dom.js" */

import { ask, pathOf, sentence } from "./api.js";
import { Logs } from "./logs.js";
import { clock, full } from "./times.js";

const SOON = 400;
const WRONG = new Set(["failed", "warning", "node_deleted", "not_ready"]);

/**
 * An entry of a timeline.
 *
 * @typedef {{ at: string, kind: string, reason?: string, message?: string, by?: string }} Entry
 */

export class History {
  /** @type {number | undefined} */
  #timer;

  /**
   * `live` says whether the stack may still write something.
   *
   * @param {string} id
   * @param {() => boolean} live
   */
  constructor(id, live) {
    this.id = id;
    this.logs = new Logs(id, live);
    this.timeline = this.#part("Timeline", h("p", { class: "quiet" }, "…"));
    this.written = this.#part("Logs", this.logs.element);
    this.spec = this.#part("Pod spec", h("p", { class: "quiet" }, "…"));
    this.timeline.part.open = true;
    this.element = h("div", { class: "history" }, this.timeline.part, this.written.part, this.spec.part);
  }

  /** Ask again for what is shown. */
  async refresh() {
    clearTimeout(this.#timer);
    if (this.written.part.open) await this.logs.start();
    else this.logs.stop();
    if (this.timeline.part.open) await load(this.timeline.body, () => this.#timeline());
    if (this.spec.part.open) await load(this.spec.body, () => this.#spec());
  }

  /** Ask again in a moment: the stack has changed, and may again. */
  later() {
    clearTimeout(this.#timer);
    if (!this.spec.part.open) this.#timer = setTimeout(() => this.refresh(), SOON);
  }

  /** Nobody looks any more. */
  stop() {
    clearTimeout(this.#timer);
    this.logs.stop();
  }

  /**
   * One of the parts, of which one is open at a time.
   *
   * @param {string} name
   * @param {HTMLElement} content
   */
  #part(name, content) {
    const body = h("div", {}, content);
    const part = h("details", { name: "about" }, h("summary", {}, name), body);
    part.addEventListener("toggle", () => part.isConnected && this.refresh());
    return { part, body };
  }

  async #timeline() {
    /** @type {{ events: Entry[] }} */
    const { events } = await ask("GET", pathOf(this.id, "timeline"));
    if (!events.length) return h("p", { class: "quiet" }, "Nothing is known.");
    return h(
      "ol",
      { class: "timeline" },
      events.toReversed().map((event) => this.#event(event)),
    );
  }

  /** @param {Entry} entry */
  #event({ at, kind, reason, message, by }) {
    const said = [reason, message].filter(Boolean).join(": ");
    return h(
      "li",
      { class: WRONG.has(kind) ? "wrong" : null },
      h("time", { datetime: at, title: full(at), class: "num quiet" }, clock(at)),
      h(
        "div",
        {},
        h("b", {}, kind.replaceAll("_", " ")),
        by ? h("span", { class: "quiet" }, ` by ${by}`) : null,
        said ? h("p", { class: "said" }, said) : null,
      ),
    );
  }

  async #spec() {
    const stack = await ask("GET", pathOf(this.id));
    return say(h("pre", { tabindex: "0", "aria-label": "Pod spec" }), stack.pod_spec);
  }
}

/**
 * Show what is asked for, or why it did not come.
 *
 * @param {HTMLElement} body
 * @param {() => Promise<Child>} content
 */
async function load(body, content) {
  try {
    show(body, await content());
  } catch (error) {
    show(body, h("p", { class: "quiet", role: "status" }, sentence(error)));
  }
}
