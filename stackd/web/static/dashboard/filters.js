// The filters' fields, what they suggest, and the count of what they leave.

/** @import { Columns } from "./columns.js" */
/** @import { Stacks } from "./stacks.js" */
/** @import { View } from "./view.js" */

import { at, found, h, say, show } from "../shared/dom.js";
import { headOf, LABEL } from "./columns.js";

const PAUSE = 1_500; // between two counts that are read out
const SUGGESTED = 100;

export class Filters {
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
    this.template = found("template", HTMLSelectElement);
    this.find.addEventListener("input", () => view.change({ text: this.find.value }));
    this.label.addEventListener("input", () => view.change({ label: this.label.value }));
    this.group = found("group", HTMLSelectElement);
    this.group.addEventListener("change", () => view.change({ group: this.group.value, closed: new Set() }));
    this.node.addEventListener("change", () => view.change({ node: this.node.value }));
    this.template.addEventListener("change", () => view.change({ template: this.template.value }));
    at("clear").addEventListener("click", () => view.clearFilter());
    view.subscribe(() => this.#fields());
    stacks.subscribe(() => this.#draw());
    this.#draw();
  }

  /** The fields say what the view is. */
  #fields() {
    const { text, label, node, template, group } = this.view.state;
    if (this.find.value !== text) this.find.value = text;
    if (this.label.value !== label) this.label.value = label;
    this.node.value = node;
    this.template.value = template;
    this.group.value = group;
    at("clear").hidden = !this.view.narrowed;
  }

  #draw() {
    const { node, template, group } = this.view.state;
    const [nodes, templates] = [new Set([node]), new Set([template])];
    /** @type {Map<string, Set<string>>} */
    const labels = new Map();
    for (const stack of this.stacks.all.values()) {
      nodes.add(stack.node_id ?? "");
      templates.add(stack.template ?? "");
      for (const [name, value] of Object.entries(stack.labels ?? {})) {
        const values = labels.get(name);
        if (values) values.add(value);
        else labels.set(name, new Set([value]));
      }
    }
    offer(this.node, "All nodes", [...nodes].sort(), (name) => name);
    offer(this.template, "All templates", [...templates].sort(), (name) => name);
    // One can group by the labels in use, and by what every stack has.
    const keys = [...this.columns.names.map((name) => LABEL + name), "status", "node", group];
    offer(this.group, "No groups", keys, (key) => `By ${headOf(key)}`);
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

  /**
   * The names of the labels in use; those with few values with each of them.
   *
   * @param {Map<string, Set<string>>} labels
   */
  #suggest(labels) {
    const names = [...labels.keys()].sort();
    const pairs = names.flatMap((name) => [...(labels.get(name) ?? [])].sort().map((value) => `${name}=${value}`));
    const offered = [...names, ...pairs].slice(0, Math.max(names.length, SUGGESTED));
    show(
      at("label-names"),
      offered.map((text) => h("option", { value: text })),
    );
  }
}

/**
 * Offer these values; a choice between none is not shown.
 *
 * @param {HTMLSelectElement} select
 * @param {string} none
 * @param {string[]} values
 * @param {(value: string) => string} words
 */
function offer(select, none, values, words) {
  const offered = ["", ...new Set(values.filter(Boolean))];
  show(
    select,
    offered.map((value) => h("option", { value, "data-key": value || " " }, value ? words(value) : none)),
  );
  if (select.parentElement) select.parentElement.hidden = offered.length === 1;
}
