// The filters, their place in the address bar (so that a reload keeps them), and the count of what they leave.

import { at, fill, h, say } from "../shared/dom.js";
import { STATUSES } from "./stacks.js";

const SAY_AFTER = 1000;

export class Filters {
  #nodes = "";
  #names = "";

  constructor(stacks) {
    this.stacks = stacks;
    this.find = at("find");
    this.label = at("label");
    this.node = at("node");
    this.find.addEventListener("input", () => this.#narrow({ text: this.find.value }));
    this.label.addEventListener("change", () => this.#narrow({ label: this.label.value }));
    this.node.addEventListener("change", () => this.#narrow({ node: this.node.value }));
    at("clear").addEventListener("click", () => this.clear());
    stacks.subscribe(() => this.#draw());
    this.#read();
  }

  toggleStatus(status) {
    const statuses = new Set(this.stacks.filter.statuses);
    if (!statuses.delete(status)) statuses.add(status);
    this.#narrow({ statuses });
  }

  clear() {
    this.find.value = this.label.value = this.node.value = "";
    this.#narrow({ text: "", label: "", node: "", statuses: new Set() });
  }

  #narrow(part) {
    this.stacks.narrow(part);
    const { text, statuses, node, label } = this.stacks.filter;
    const kept = new URLSearchParams();
    if (text) kept.set("find", text);
    if (statuses.size) kept.set("status", [...statuses].join(","));
    if (node) kept.set("node", node);
    if (label) kept.set("label", label);
    history.replaceState(null, "", kept.size ? `#${kept}` : location.pathname);
  }

  #read() {
    const kept = new URLSearchParams(location.hash.slice(1));
    this.find.value = kept.get("find") ?? "";
    this.label.value = kept.get("label") ?? "";
    const statuses = new Set((kept.get("status") ?? "").split(",").filter((status) => STATUSES.includes(status)));
    this.stacks.narrow({ text: this.find.value, label: this.label.value, node: kept.get("node") ?? "", statuses });
  }

  #draw() {
    const { all, shown, narrowed, filter } = this.stacks;
    const nodes = new Set(filter.node ? [filter.node] : []);
    const names = new Set();
    for (const stack of all.values()) {
      if (stack.node_id) nodes.add(stack.node_id);
      for (const name of Object.keys(stack.labels ?? {})) names.add(name);
    }
    this.#options([...nodes].sort());
    this.#suggest([...names].sort());
    at("clear").hidden = !narrowed;
    clearTimeout(this.saying);
    const text = narrowed ? `${shown.length} of ${all.size} stacks` : `${all.size} stack${all.size === 1 ? "" : "s"}`;
    this.saying = setTimeout(() => say(at("count"), text), at("count").textContent ? SAY_AFTER : 0); // calm for a screen reader
  }

  #options(nodes) {
    if (nodes.join("\n") === this.#nodes) return;
    this.#nodes = nodes.join("\n");
    const chosen = this.stacks.filter.node;
    fill(this.node, h("option", { value: "" }, "All nodes"), nodes.map((name) => h("option", { value: name }, name)));
    this.node.value = chosen;
  }

  #suggest(names) {
    if (names.join("\n") === this.#names) return;
    this.#names = names.join("\n");
    fill(at("label-names"), names.map((name) => h("option", { value: name })));
  }
}
