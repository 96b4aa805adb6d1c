// Timeline, logs and pod spec of one stack, as tabs. All three are hostile text.

import { ask, pathOf, read } from "./api.js";
import { fill, h, say } from "../shared/dom.js";
import { clock, full } from "./times.js";

const TAILS = ["100", "500", "2000"];
const SOON = 400;
const WRONG = new Set(["failed", "warning", "node_deleted", "not_ready"]);

export class History {
  #tabs = new Map();
  #current = "timeline";
  #timer = null;

  constructor(id) {
    this.id = id;
    const list = h("div", { class: "tabs", role: "tablist", "aria-label": "About this stack" });
    this.element = h("div", { class: "history" }, list);
    this.#tab(list, "timeline", "Timeline", () => this.#timeline());
    this.#tab(list, "logs", "Logs", () => this.#logs());
    this.#tab(list, "spec", "Pod spec", () => this.#spec());
    list.addEventListener("keydown", (event) => this.#arrows(event));
    this.tail = h("select", { "aria-label": "How many lines" }, TAILS.map((count) => h("option", { value: count }, `last ${count} lines`)));
    this.tail.addEventListener("change", () => this.refresh());
    this.again = h("button", { type: "button" }, "Refresh");
    this.again.addEventListener("click", () => this.refresh());
    this.select("timeline");
  }

  /** Ask again for what is shown. */
  async refresh() {
    clearTimeout(this.#timer);
    const name = this.#current;
    const { body, load } = this.#tabs.get(name);
    try {
      const content = await load();
      if (name === this.#current) fill(body, content);
    } catch (error) {
      if (name !== this.#current) return;
      const tools = name === "logs" ? [this.#tools()] : [];
      fill(body, tools, h("p", { class: "quiet", role: "status" }, error.message));
    }
  }

  /** Ask again in a moment: the stack has changed, and may again. */
  later() {
    clearTimeout(this.#timer);
    if (this.#current === "timeline") this.#timer = setTimeout(() => this.refresh(), SOON);
  }

  select(name) {
    this.#current = name;
    for (const [each, { tab, body }] of this.#tabs) {
      tab.setAttribute("aria-selected", String(each === name));
      tab.tabIndex = each === name ? 0 : -1;
      body.hidden = each !== name;
    }
  }

  #tab(list, name, text, load) {
    const tab = h("button", { type: "button", role: "tab", class: "plain", id: `tab-${name}`, "aria-controls": `body-${name}` }, text);
    const body = h("div", { role: "tabpanel", id: `body-${name}`, "aria-labelledby": `tab-${name}`, tabindex: "0" }, h("p", { class: "quiet" }, "…"));
    tab.addEventListener("click", () => {
      this.select(name);
      this.refresh();
    });
    this.#tabs.set(name, { tab, body, load });
    list.append(tab);
    this.element.append(body);
  }

  #arrows(event) {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    const names = [...this.#tabs.keys()];
    const next = names[(names.indexOf(this.#current) + by + names.length) % names.length];
    this.select(next);
    this.#tabs.get(next).tab.focus();
    this.refresh();
  }

  async #timeline() {
    const { events } = await ask("GET", pathOf(this.id, "timeline"));
    if (!events.length) return h("p", { class: "quiet" }, "Nothing is known.");
    return h("ol", { class: "timeline" }, events.toReversed().map((event) => this.#event(event)));
  }

  #event({ at, kind, reason, message, by }) {
    const said = [reason, message].filter(Boolean).join(": ");
    return h(
      "li",
      { class: WRONG.has(kind) ? "wrong" : null },
      h("time", { datetime: at, title: full(at), class: "num quiet" }, clock(at)),
      h("div", {}, h("b", {}, kind.replaceAll("_", " ")), by ? h("span", { class: "quiet" }, ` by ${by}`) : null, said ? h("p", { class: "said" }, said) : null),
    );
  }

  async #logs() {
    const text = await read(`${pathOf(this.id, "logs")}?tail=${this.tail.value}`);
    const lines = h("pre", { class: "log", tabindex: "0", "aria-label": "Log" });
    say(lines, text || "Nothing has been written.");
    return [this.#tools(), lines];
  }

  #tools() {
    return h("div", { class: "buttons" }, this.tail, this.again);
  }

  async #spec() {
    const stack = await ask("GET", pathOf(this.id));
    return say(h("pre", { tabindex: "0", "aria-label": "Pod spec" }), stack.pod_spec);
  }
}
