// What needs attention, by label, template or node: how many stacks are broken, why, and what to do about it.

/** @import { Group } from "./arrange.js" */
/** @import { Actions } from "./bulk.js" */
/** @import { Stacks } from "./stacks.js" */
/** @import { Kind } from "./trouble.js" */

import { at, button, found, h, memo, numbers, paced, show, steady } from "../shared/dom.js";
import { grouped, LABEL, quoted } from "./arrange.js";
import { DEEDS } from "./bulk.js";
import { groupName, headOf, plural, reasonLink } from "./table.js";
import { guideOf, KINDS, kindOf, remedyOf, wordsOf } from "./trouble.js";

const MOST = 200;
const PAUSE = 500;
const LOGS_SAY_WHY = new Set(["Error", "CrashLoopBackOff", "NotReady", "CheckFailed"]);
const kinds = /** @type {Kind[]} */ (Object.keys(KINDS));

export class Attention {
  #drawing = paced(PAUSE, () => this.#draw());
  /** The columns: what is broken anywhere. */
  #kinds = kinds;

  /** @param {Stacks} stacks @param {Actions} actions @param {(id: string) => void} logs */
  constructor(stacks, actions, logs) {
    this.stacks = stacks;
    this.actions = actions;
    this.logs = logs;
    this.place = found("attention", HTMLDetailsElement);
    stacks.subscribe(this.#drawing.soon);
    this.place.open = stacks.view.state.attention !== "";
    this.place.addEventListener("toggle", () => {
      if (this.place.open !== (stacks.view.state.attention !== "")) this.#choose(this.place.open ? "open" : "");
    });
    setInterval(() => document.hidden || this.#drawing.soon(), 5_000); // stacks expire, and start for too long
  }

  /** Show what needs attention by this; by nothing, only how much does. @param {string} attention */
  #choose(attention) {
    this.stacks.view.change({ attention });
    this.#drawing.now();
  }

  #draw() {
    if (this.stacks.view.state.players) return; // nobody sees it
    const stacks = [...this.stacks.all.values()];
    const bys = [...this.stacks.labels.map((name) => LABEL + name), "template", "node"];
    if (stacks.every((stack) => !stack.template)) bys.splice(bys.indexOf("template"), 1);
    const { attention } = this.stacks.view.state;
    const by = bys.includes(attention) ? attention : (bys[0] ?? "node");
    this.place.open = attention !== "";
    const groups = grouped(stacks, by).filter(({ tally }) => tally.trouble);
    const [worst] = groups;
    const top = worst?.tally.top;
    const wrong = stacks.filter((stack) => kindOf(stack)).length;
    const most = top && `: ${groupName(by, worst.value)}, ${top.count} × ${wordsOf(top.reason)}`;
    const some = `Needs attention: ${numbers.format(wrong)} ${plural(wrong)}`;
    const all = wrong ? some : this.stacks.arrived ? "Nothing needs attention" : "…";
    show(at("attention-words"), all, this.place.open ? "" : (most ?? ""));
    if (!this.place.open) return;
    show(
      at("attention-by"),
      bys.map((each) => this.#tab(each, each === by)),
    );
    this.#kinds = kinds.filter((kind) => groups.some(({ tally }) => tally.counts[kind]));
    const heads = [headOf(by), "Stacks", ...this.#kinds.map((kind) => KINDS[kind]), "Why", "What to do"];
    show(
      at("attention-head"),
      h(
        "tr",
        {},
        heads.map((text) => h("th", { scope: "col" }, text)),
      ),
    );
    const body = at("attention-body");
    const rows = groups.slice(0, MOST).map((group) => this.#row(by, group));
    show(body, steady(body, rows));
  }

  /** @param {string} by @param {boolean} on */
  #tab(by, on) {
    const click = () => this.#choose(by);
    const look = { class: "chip", "aria-pressed": String(on), "data-key": by };
    return button(`By ${headOf(by).toLowerCase()}`, click, look);
  }

  /** @param {string} by @param {Group} group */
  #row(by, { value, tally }) {
    const { view } = this.stacks;
    const { top, counts, total } = tally;
    const inputs = [
      by,
      this.#kinds.join(),
      total,
      JSON.stringify(counts),
      top?.reason,
      top?.count,
      top?.stack.stack_id,
    ];
    return memo(value || " ", inputs, () => {
      const name = groupName(by, value);
      const label = { text: quoted(`${headOf(by)}=${value}`) };
      const filter = by === "node" ? { node: value } : by === "template" ? { template: value } : label;
      const cells = this.#kinds.map((kind) => {
        const text = counts[kind] ? numbers.format(counts[kind]) : "";
        const click = () => view.narrow({ ...filter, trouble: kind });
        const title = `Show ${counts[kind]} ${KINDS[kind]} of ${name}`;
        const content = text && value ? button(text, click, { class: "plain", title }) : text;
        return h("td", { class: "num kind" }, content);
      });
      const lead = value ? button(value, () => view.narrow(filter), { class: "plain", title: `Show ${name}` }) : name;
      return h(
        "tr",
        { "data-group": value },
        h("th", { scope: "row" }, lead),
        h("td", { class: "num" }, numbers.format(total)),
        cells,
        h("td", { class: "because" }, top && reasonLink(top.stack, top.reason, top.count)),
        h("td", { class: "remedies" }, this.#remedies(by, { value, tally })),
      );
    });
  }

  /** What to do, the first thing first: what the guide names for the most frequent reason. @param {string} by @param {Pick<Group, "value" | "tally">} group */
  #remedies(by, { value, tally: { counts, top } }) {
    const reason = top?.reason ?? "";
    const isGone = top && kindOf(top.stack) === "gone";
    const fix = top && remedyOf(top.stack);
    /** @param {"move" | "restart"} action @param {Kind[]} cured */
    const remedy = (action, ...cured) => {
      const count = cured.reduce((sum, kind) => sum + counts[kind], 0);
      const which = `They need attention: ${groupName(by, value)}.`;
      const click = () => this.actions.many(action, () => this.#ids(by, value, cured), which);
      return count > 0 && button(`${DEEDS[action].verb} ${count}…`, click, { class: "writes" });
    };
    const title = `The logs of ${top?.stack.stack_id}`;
    const logs = top && !isGone && button("Logs", () => this.logs(top.stack.stack_id), { title });
    const pods = [remedy("restart", "failed", "unready", "restarting", "pulling"), remedy("move", "gone")];
    return [
      fix && h("a", { class: "button", href: guideOf(top.stack), target: "_blank" }, fix),
      LOGS_SAY_WHY.has(reason) ? [logs, pods] : [isGone ? pods.reverse() : pods, logs],
    ].flat(2);
  }

  /** The stacks of a group that have one of these kinds of trouble by now. @param {string} by @param {string} value @param {Kind[]} cured */
  #ids(by, value, cured) {
    const group = grouped([...this.stacks.all.values()], by).find((each) => each.value === value);
    const stuck = (group?.stacks ?? []).filter((stack) => cured.some((kind) => kind === kindOf(stack)));
    return stuck.map((stack) => stack.stack_id);
  }
}
