// The filters' fields, the count of what they leave, and the extension of all of it.

/** @import { Actions } from "./bulk.js" */
/** @import { Stacks } from "./stacks.js" */

import { at, button, found, h, memo, numbers, observeHeight, say, show } from "../shared/dom.js";
import { LABEL } from "./arrange.js";
import { headOf, plural } from "./table.js";
import { noFilter } from "./view.js";

const PAUSE = 1_500; // between two counts that are read out
const SELECTS = /** @type {const} */ (["node", "template", "group"]);

export class Filters {
  #said = 0;
  /** @type {number | undefined} */
  #saying;
  find = found("find", HTMLInputElement);

  /** `first` focuses the first row. @param {Stacks} stacks @param {Actions} actions @param {() => void} first */
  constructor(stacks, actions, first) {
    this.stacks = stacks;
    const { view } = stacks;
    this.find.addEventListener("input", () => view.change({ text: this.find.value }));
    this.find.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.find.value) view.change({ text: "" });
      else if (event.key === "Escape") this.find.blur();
      else if (event.key === "Enter" || event.key === "ArrowDown") first();
      else return;
      event.preventDefault();
    });
    const all = () => [...stacks.shown.keys()];
    at("extend-all").addEventListener("click", () => actions.many("extend", all, `The filter is ${view.words}.`));
    for (const name of SELECTS) {
      const select = found(name, HTMLSelectElement);
      select.addEventListener("change", () =>
        view.change({ [name]: select.value, ...(name === "group" && { closed: new Set() }) }),
      );
    }
    observeHeight("--filters", "filters");
    at("clear").addEventListener("click", () => view.change(noFilter()));
    at("fold").addEventListener("click", () => view.change({ closed: this.#folded ? new Set() : this.#groups }));
    stacks.subscribe(() => this.#draw());
    this.#draw();
  }

  /** All groups. */
  get #groups() {
    return new Set(this.stacks.rows.flatMap((row) => ("value" in row ? [row.value] : [])));
  }

  get #folded() {
    return this.stacks.view.state.closed.size > 0 && this.stacks.shown.size === 0;
  }

  #draw() {
    const { all, view, labels } = this.stacks;
    const { state } = view;
    const nodes = new Set([state.node]);
    const templates = new Set([state.template]);
    for (const stack of all.values()) {
      nodes.add(stack.node_id ?? "");
      templates.add(stack.template ?? "");
    }
    offer("node", "All nodes", [...nodes].sort(), state.node);
    offer("template", "All templates", [...templates].sort(), state.template);
    // One can group by the labels in use, and by what every stack has.
    const keys = [...labels.map((name) => LABEL + name), templates.size > 1 && "template", "status", "node"];
    offer("group", "No groups", [...keys.filter((key) => key !== false), state.group], state.group, headOf);
    if (this.find.value !== state.text) this.find.value = state.text;
    at("clear").hidden = !view.words;
    const lasting = [...this.stacks.shown.values()].filter((stack) => !stack.ended).length;
    at("extend-all").hidden = !view.words || !lasting;
    say(at("extend-all"), `Extend all ${numbers.format(lasting)}…`);
    at("fold").hidden = !state.group;
    say(at("fold"), this.#folded ? "Open all" : "Close all");
    const { fresh, gone, order } = this.stacks.waiting;
    const words = [fresh && `${numbers.format(fresh)} new`, gone && `${numbers.format(gone)} gone`].filter(Boolean);
    const waits = words.join(", ") || (order ? "Order changed" : "");
    const look = { class: "badge", "data-key": "show", title: "The rows stay where they are until you press this" };
    show(at("fresh"), order && button(`${waits}: show`, () => this.stacks.flush(true), look));
    this.#count(waits);
  }

  /** The number is right at once; it is read out only now and then, with what waits. @param {string} waits */
  #count(waits) {
    const { all, shown, closed, arrived } = this.stacks;
    const matching = shown.size + closed.size;
    const of = `${numbers.format(all.size)} ${plural(all.size)}`;
    const text = !arrived ? "" : matching === all.size ? of : `${numbers.format(matching)} of ${of}`;
    say(at("count"), text);
    clearTimeout(this.#saying);
    const read = () => {
      this.#said = Date.now();
      say(at("count-said"), [text, waits].filter(Boolean).join(", "));
    };
    this.#saying = setTimeout(read, Math.max(0, this.#said + PAUSE - Date.now()));
  }
}

/**
 * Offer these values; a choice between none is not shown.
 *
 * @param {"node" | "template" | "group"} id @param {string} none @param {string[]} values @param {string} chosen
 * @param {(value: string) => string} [words]
 */
function offer(id, none, values, chosen, words) {
  const select = found(id, HTMLSelectElement);
  const offered = ["", ...new Set(values.filter(Boolean))];
  const textOf = (/** @type {string} */ value) => (!value ? none : words ? `By ${words(value)}` : value);
  show(
    select,
    offered.map((value) => memo(value || " ", [], () => h("option", { value }, textOf(value)))),
  );
  select.value = chosen;
  if (select.parentElement) select.parentElement.hidden = offered.length === 1;
}
