// Timeline, logs and pod spec of one stack, as tabs. All three are hostile text.

import { fill, h, say } from "../shared/dom.js";
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
 *
 * @typedef {"timeline" | "logs" | "spec"} Name
 * @typedef {{ tab: HTMLElement, body: HTMLElement, load: (() => Promise<Child>) | undefined }} Tab
 */

export class History {
  /** @type {Map<Name, Tab>} */
  #tabs = new Map();
  /** @type {Name} */
  #current = "timeline";
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
    const list = h("div", { class: "tabs", role: "tablist", "aria-label": "About this stack" });
    this.element = h("div", { class: "history" }, list);
    this.#tab(list, "timeline", "Timeline", () => this.#timeline());
    fill(this.#tab(list, "logs", "Logs"), this.logs.element);
    this.#tab(list, "spec", "Pod spec", () => this.#spec());
    list.addEventListener("keydown", (event) => this.#arrows(event));
    this.select("timeline");
  }

  /** Ask again for what is shown. */
  async refresh() {
    clearTimeout(this.#timer);
    const name = this.#current;
    if (name === "logs") {
      await this.logs.start();
      return;
    }
    const { body, load } = /** @type {Tab} */ (this.#tabs.get(name));
    try {
      const content = await load?.();
      if (name === this.#current) fill(body, content);
    } catch (error) {
      if (name === this.#current) fill(body, h("p", { class: "quiet", role: "status" }, sentence(error)));
    }
  }

  /** Ask again in a moment: the stack has changed, and may again. */
  later() {
    clearTimeout(this.#timer);
    if (this.#current !== "spec") this.#timer = setTimeout(() => this.refresh(), SOON);
  }

  /** Nobody looks any more. */
  stop() {
    clearTimeout(this.#timer);
    this.logs.stop();
  }

  /** @param {Name} name */
  select(name) {
    if (this.#current === "logs") this.logs.stop();
    this.#current = name;
    for (const [each, { tab, body }] of this.#tabs) {
      tab.setAttribute("aria-selected", String(each === name));
      tab.tabIndex = each === name ? 0 : -1;
      body.hidden = each !== name;
    }
  }

  /**
   * @param {HTMLElement} list
   * @param {Name} name
   * @param {string} text
   * @param {() => Promise<Child>} [load]
   */
  #tab(list, name, text, load) {
    const tab = h(
      "button",
      { type: "button", role: "tab", class: "plain", id: `tab-${name}`, "aria-controls": `body-${name}` },
      text,
    );
    const body = h(
      "div",
      { role: "tabpanel", id: `body-${name}`, "aria-labelledby": `tab-${name}`, tabindex: "0" },
      h("p", { class: "quiet" }, "…"),
    );
    tab.addEventListener("click", () => {
      this.select(name);
      this.refresh();
    });
    this.#tabs.set(name, { tab, body, load });
    list.append(tab);
    this.element.append(body);
    return body;
  }

  /** @param {KeyboardEvent} event */
  #arrows(event) {
    if (event.key !== "ArrowRight" && event.key !== "ArrowLeft") return;
    const by = event.key === "ArrowRight" ? 1 : -1;
    const names = [...this.#tabs.keys()];
    const next = names[(names.indexOf(this.#current) + by + names.length) % names.length] ?? this.#current;
    this.select(next);
    this.#tabs.get(next)?.tab.focus();
    this.refresh();
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
