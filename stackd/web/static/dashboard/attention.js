// Who needs attention, by label, template or node: how many stacks, why, and what to do about it.

/** @import { Group } from "./arrange.js" */
/** @import { Actions, Selection } from "./bulk.js" */
/** @import { Glance } from "./glance.js" */
/** @import { Stacks } from "./stacks.js" */
/** @import { Kind } from "./trouble.js" */

import { at, button, found, h, memo, numbers, quiet, show } from "../shared/dom.js";
import { compare, grouped, LABEL, quoted } from "./arrange.js";
import { DEEDS } from "./bulk.js";
import { groupName, headOf, plural, reasonLink } from "./table.js";
import { KINDS, kindOf } from "./trouble.js";

const MOST = 200;
const PAUSE = 500;
const kinds = /** @type {Kind[]} */ (Object.keys(KINDS));

export class Attention {
  #drawn = 0;
  /** @type {number | undefined} */
  #later;
  /** What the rows are ordered by: a kind of trouble, or `worst`, `name`, `stacks`. */
  #sort = "worst";

  /** @param {Stacks} stacks @param {Selection} selection @param {Actions} actions @param {Glance} glance @param {(id: string) => void} logs */
  constructor(stacks, selection, actions, glance, logs) {
    this.stacks = stacks;
    this.selection = selection;
    this.actions = actions;
    this.glance = glance;
    this.logs = logs;
    this.place = found("attention", HTMLDetailsElement);
    stacks.subscribe(() => this.#soon());
    this.place.open = stacks.view.state.attention !== "";
    this.place.addEventListener("toggle", () => {
      if (this.place.open !== (stacks.view.state.attention !== "")) this.#choose(this.place.open ? "open" : "");
    });
    setInterval(() => document.hidden || this.#soon(), 5_000); // stacks expire, and start for too long
  }

  /** Show what needs attention by this; by nothing, only how much does. @param {string} attention */
  #choose(attention) {
    this.stacks.view.change({ attention });
    this.#draw();
  }

  /** Draw now, or in a moment if that was done just before. */
  #soon() {
    const pause = Math.max(0, this.#drawn + PAUSE - performance.now());
    this.#later ??= setTimeout(() => this.#draw(), pause);
  }

  #draw() {
    clearTimeout(this.#later);
    this.#later = undefined;
    this.#drawn = performance.now();
    const stacks = [...this.stacks.all.values()];
    const bys = [...this.stacks.labels.map((name) => LABEL + name), "template", "node"];
    if (stacks.every((stack) => !stack.template)) bys.splice(bys.indexOf("template"), 1);
    const { attention } = this.stacks.view.state;
    const by = bys.includes(attention) ? attention : (bys[0] ?? "node");
    this.place.open = attention !== "";
    const groups = grouped(stacks, by).filter(({ tally }) => tally.trouble || by === "node");
    const [worst] = groups;
    const top = worst?.tally.top;
    const wrong = stacks.filter((stack) => kindOf(stack)).length;
    const most = top && `: ${groupName(by, worst.value)}, ${top.count} × ${top.reason}`;
    const all = wrong ? `Needs attention: ${numbers.format(wrong)} ${plural(wrong)}` : "Nothing needs attention";
    show(at("attention-words"), all, this.place.open ? "" : (most ?? ""));
    if (!this.place.open) return;
    show(
      at("attention-by"),
      bys.map((each) => this.#tab(each, each === by)),
    );
    const heads = [
      this.#head("name", headOf(by)),
      this.#head("stacks", "Stacks"),
      kinds.map((kind) => this.#head(kind, KINDS[kind])),
    ];
    show(
      at("attention-head"),
      h("tr", {}, heads.flat(), h("th", { scope: "col" }, "Why"), h("th", { scope: "col" }, "What to do")),
    );
    show(
      at("attention-body"),
      this.#sorted(groups)
        .slice(0, MOST)
        .map((group) => this.#row(by, group)),
    );
  }

  /** @param {Group[]} groups */
  #sorted(groups) {
    const sort = this.#sort;
    if (sort === "worst") return groups;
    if (sort === "name") return groups.sort((one, other) => compare(one.value, other.value));
    const count = (/** @type {Group} */ { tally }) =>
      sort === "stacks" ? tally.total : tally.counts[/** @type {Kind} */ (sort)];
    return groups.sort((one, other) => count(other) - count(one));
  }

  /** @param {string} by @param {boolean} on */
  #tab(by, on) {
    const click = () => this.#choose(by);
    return button(`By ${headOf(by).toLowerCase()}`, click, {
      class: "chip",
      "aria-pressed": String(on),
      "data-key": by,
    });
  }

  /** @param {string} sort @param {string} text */
  #head(sort, text) {
    const click = () => {
      this.#sort = this.#sort === sort ? "worst" : sort;
      this.#draw();
    };
    const sorted = this.#sort === sort && (sort === "name" ? "ascending" : "descending");
    const name = text[0]?.toUpperCase() + text.slice(1);
    const attributes = {
      scope: "col",
      "aria-sort": sorted,
      class: Object.hasOwn(KINDS, sort) && "kind",
      "data-key": sort,
    };
    return h("th", attributes, button(name, click, { class: "plain" }));
  }

  /** @param {string} by @param {Group} group */
  #row(by, { value, tally }) {
    const { view } = this.stacks;
    const { top, counts, total } = tally;
    const room = by === "node" && value ? this.glance.roomOn(value) : null;
    const inputs = [by, total, JSON.stringify(counts), top?.reason, top?.count, top?.stack.stack_id, room];
    return memo(value || " ", inputs, () => {
      const name = groupName(by, value);
      const label = { text: quoted(`${headOf(by)}=${value}`) };
      const filter = by === "node" ? { node: value } : by === "template" ? { template: value } : label;
      const cells = kinds.map((kind) => {
        const text = counts[kind] ? numbers.format(counts[kind]) : "";
        const click = () => view.narrow({ ...filter, trouble: kind });
        const title = `Show ${counts[kind]} ${KINDS[kind]} of ${name}`;
        const content = text && value ? button(text, click, { class: "plain", title }) : text;
        return h("td", { class: `num kind ${kind}` }, content);
      });
      /** @param {import("./bulk.js").Action} action @param {Kind[]} cured */
      const remedy = (action, cured) => {
        const count = cured.reduce((sum, kind) => sum + counts[kind], 0);
        const click = () => this.actions.many(action, this.#ids(by, value, cured), `They need attention: ${name}.`);
        return count > 0 && button(`${DEEDS[action].verb} ${count}…`, click, { class: "writes" });
      };
      const select = () => {
        view.narrow(filter);
        this.selection.only([...this.stacks.shown.keys()]);
      };
      const title = `The logs of ${top?.stack.stack_id}`;
      return h(
        "tr",
        { "data-group": value },
        h("th", { scope: "row" }, value ? button(value, () => view.narrow(filter), { class: "plain" }) : name),
        h("td", { class: "num" }, numbers.format(total), room !== null && quiet(` +${room}`)),
        cells,
        h("td", {}, top && reasonLink(top.reason, top.count)),
        h(
          "td",
          {},
          remedy("restart", kinds.slice(0, -1)),
          remedy("extend", ["expiring"]),
          top && button("Logs", () => this.logs(top.stack.stack_id), { title }),
          value && button(`Select ${total}`, select, { class: "writes" }),
        ),
      );
    });
  }

  /** The stacks of a group that have one of these kinds of trouble by now. @param {string} by @param {string} value @param {Kind[]} cured */
  #ids(by, value, cured) {
    const group = grouped([...this.stacks.all.values()], by).find((each) => each.value === value);
    const stuck = (group?.stacks ?? []).filter((stack) => cured.some((kind) => kind === kindOf(stack)));
    return stuck.map((stack) => stack.stack_id);
  }
}
