// The filters' fields, what they suggest, and the count of what they leave.

/** @import { Columns } from "./columns.js" */
/** @import { Stacks } from "./stacks.js" */
/** @import { View } from "./view.js" */

import { at, fill, found, h, say } from "../shared/dom.js";
import { headOf, LABEL } from "./columns.js";

const PAUSE = 1_500; // between two counts that are read out
const SUGGESTED = 100;

export class Filters {
  #nodes = "";
  #groups = "";
  #labels = "";
  #said = 0;
  /** @type {number | undefined} */
  #saying;

  /**
   * @param {Stacks} stacks
   * @param {View} view
   * @param {Columns} columns
   */
  constructor(stacks, view, columns) {
    this.stacks = stacks;
    this.columns = columns;
    this.view = view;
    this.find = found("find", HTMLInputElement);
    this.label = found("label", HTMLInputElement);
    this.node = found("node", HTMLSelectElement);
    this.find.addEventListener("input", () => view.change({ text: this.find.value }));
    this.label.addEventListener("input", () => view.change({ label: this.label.value }));
    this.group = found("group", HTMLSelectElement);
    this.group.addEventListener("change", () => view.change({ group: this.group.value, closed: new Set() }));
    this.node.addEventListener("change", () => view.change({ node: this.node.value }));
    at("clear").addEventListener("click", () => view.clearFilter());
    view.subscribe(() => this.#fields());
    stacks.subscribe(() => this.#draw());
    this.#draw();
  }

  /** The fields say what the view is. */
  #fields() {
    const { text, label, node, group } = this.view.state;
    if (this.find.value !== text) this.find.value = text;
    if (this.label.value !== label) this.label.value = label;
    this.node.value = node;
    this.group.value = group;
    at("clear").hidden = !this.view.narrowed;
  }

  #draw() {
    const { node } = this.view.state;
    const nodes = new Set(node ? [node] : []);
    /** @type {Map<string, Set<string>>} */
    const labels = new Map();
    for (const stack of this.stacks.all.values()) {
      if (stack.node_id) nodes.add(stack.node_id);
      for (const [name, value] of Object.entries(stack.labels ?? {})) {
        const values = labels.get(name);
        if (values) values.add(value);
        else labels.set(name, new Set([value]));
      }
    }
    this.#options([...nodes].sort());
    this.#groupings();
    this.#suggest(labels);
    this.#fields();
    this.#count();
  }

  /** The number is right at once; it is read out only now and then. */
  #count() {
    const { all, matching, arrived } = this.stacks;
    const of = `${all.size} stack${all.size === 1 ? "" : "s"}`;
    const text = !arrived ? "" : matching === all.size ? of : `${matching} of ${of}`;
    say(at("count"), text);
    clearTimeout(this.#saying);
    const read = () => {
      this.#said = Date.now();
      say(at("count-said"), text);
    };
    this.#saying = setTimeout(read, Math.max(0, this.#said + PAUSE - Date.now()));
  }

  /** @param {string[]} nodes */
  #options(nodes) {
    if (nodes.join("\n") === this.#nodes) return;
    this.#nodes = nodes.join("\n");
    fill(
      this.node,
      h("option", { value: "" }, "All nodes"),
      nodes.map((name) => h("option", { value: name }, name)),
    );
  }

  /** What one can group by: the labels in use, and what every stack has. */
  #groupings() {
    const { group } = this.view.state;
    const labels = this.columns.names.map((name) => LABEL + name);
    const keys = [...new Set([...labels, "status", "node", group])].filter(Boolean);
    if (keys.join() === this.#groups) return;
    this.#groups = keys.join();
    fill(
      this.group,
      h("option", { value: "" }, "No groups"),
      keys.map((key) => h("option", { value: key }, `By ${headOf(key)}`)),
    );
  }

  /**
   * The names of the labels in use; those with few values with each of them.
   *
   * @param {Map<string, Set<string>>} labels
   */
  #suggest(labels) {
    const names = [...labels.keys()].sort();
    const pairs = names.flatMap((name) => [...(labels.get(name) ?? [])].sort().map((value) => `${name}=${value}`));
    const offered = [...names, ...pairs].slice(0, Math.max(names.length, SUGGESTED));
    if (offered.join("\n") === this.#labels) return;
    this.#labels = offered.join("\n");
    fill(
      at("label-names"),
      offered.map((text) => h("option", { value: text })),
    );
  }
}
