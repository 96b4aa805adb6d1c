// Which stacks are selected, what a person can do to one or to many, and the bar at the bottom that shows both.
//
// What is selected and no longer shown stays selected, is counted apart, and is out of reach until it is shown again:
// nothing can be done to stacks that nobody sees.

/** @import { StackData, Stacks } from "./stacks.js" */

import { at, button, h, say, show } from "../shared/dom.js";
import { ask, pathOf, Refusal } from "./api.js";
import { complain, confirm, tell } from "./dialogs.js";
import { WORDS } from "./stacks.js";
import { Subject } from "./subject.js";
import { plural } from "./table.js";
import { left } from "./times.js";

const POLL = 400;
const WATCH = 2_000;
const LISTED = 200;

/**
 * What can be done: the words, what to know before, and the number of stacks above which it has to be typed.
 *
 * @typedef {{ verb: string, doing: string, done: string, above: number, warning: string }} Deed
 * @typedef {"extend" | "restart" | "move" | "stop" | "start" | "delete"} Action
 */

/** @param {string} verb @param {string} doing @param {string} done @param {number} above @returns {Deed} */
function deed(verb, doing, done, above, warning = "") {
  return { verb, doing, done, above, warning };
}

/** @type {Record<Action, Deed>} */
export const DEEDS = {
  extend: deed("Extend", "Extending", "extended", Infinity),
  restart: deed(
    "Restart",
    "Restarting",
    "restarted",
    50,
    "A fresh pod behind the same ports; what is in the pod is lost.",
  ),
  move: deed(
    "Move",
    "Moving",
    "moved",
    Infinity,
    "A fresh pod on another node; what was on the node that is gone is lost.",
  ),
  start: deed("Start", "Starting", "started", Infinity),
  stop: deed("Stop", "Stopping", "stopped", 10, "The pod and everything in it will be deleted. The ports are kept."),
  delete: deed("Delete", "Deleting", "deleted", 10, "Everything in it is lost. This cannot be undone."),
};
/** What can be done to any stacks. @type {Action[]} */
const ACTIONS = ["extend", "restart", "start", "stop", "delete"];
const HARMLESS = new Set(["restart", "move", "start"]);

/**
 * A batch job as the API describes it.
 *
 * @typedef {{ job_id: string, status: "queued" | "running" | "completed" | "failed", total: number, done: number,
 *   not_found: number, failed: number, errors?: { stack_id: string, error: string }[], outcome?: Outcome | null,
 *   common?: Record<string, string> | null, template?: string | null }} Job
 *
 * What came of the stacks, for two minutes after the end of the job.
 *
 * @typedef {{ final: boolean, statuses: Record<string, number>, reasons: { status: string, reason: string }[] }} Outcome
 */

/** How the stacks of a job are now, in words: those that run first, also if none does. @param {Outcome} outcome */
export function cameOf({ statuses: { running = 0, ...others }, reasons }) {
  const parts = Object.entries(others).map(([status, count]) => {
    const why = reasons.filter((each) => each.status === status && each.reason).map(({ reason }) => reason);
    return `${count} ${WORDS[/** @type {keyof typeof WORDS} */ (status)] ?? status}${why.length ? ` (${why.join(", ")})` : ""}`;
  });
  return [`${running} run`, ...parts].join(", ");
}

export class Selection extends Subject {
  /** @type {Set<string>} */
  #ids = new Set();

  /** @param {Stacks} stacks */
  constructor(stacks) {
    super();
    this.stacks = stacks;
    stacks.subscribe(() => this.#update());
  }

  /** The selected stacks that are shown, in the order of the table. */
  get ids() {
    return this.#ids.size ? [...this.stacks.shown.keys()].filter((id) => this.#ids.has(id)) : [];
  }

  /** How many are selected and not shown: for the filter, and for a closed group. */
  get hidden() {
    const unseen = [...this.#ids].filter((id) => !this.stacks.shown.has(id));
    const closed = unseen.filter((id) => this.stacks.closed.has(id)).length;
    return { filtered: unseen.length - closed, closed, all: unseen.length };
  }

  /** @param {string} id */
  has(id) {
    return this.#ids.has(id);
  }

  /** Select stacks, or no longer, as far as they are shown. @param {string[]} ids @param {boolean} on */
  set(ids, on) {
    for (const id of ids) {
      if (on && this.stacks.shown.has(id)) this.#ids.add(id);
      else if (this.stacks.shown.has(id)) this.#ids.delete(id);
    }
    this.tell();
  }

  /** Select these and no others. @param {string[]} ids */
  only(ids) {
    this.#ids = new Set(ids);
    this.tell();
  }

  /** Select these no longer. @param {string[]} ids */
  drop(ids) {
    for (const id of ids) this.#ids.delete(id);
    this.tell();
  }

  clear() {
    if (this.#ids.size) this.only([]);
  }

  /** Forget what is gone; what is shown may have changed. */
  #update() {
    if (!this.#ids.size) return;
    for (const id of this.#ids) if (!this.stacks.get(id)) this.#ids.delete(id);
    this.tell();
  }
}

/** What a person can do. Each asks first where something is lost, says what came of it, and never throws. */
export class Actions {
  /** @param {Stacks} stacks @param {Selection} selection */
  constructor(stacks, selection) {
    this.stacks = stacks;
    this.selection = selection;
    this.place = at("selection");
    this.chosen = h("div", { class: "buttons" });
    this.place.append(this.chosen);
    this.count = h("span", { role: "status" });
    selection.subscribe(() => this.#draw());
  }

  /** Do something to one stack. Returns whether it was done. @param {Action} action @param {string} id @param {string} [ttl] */
  async one(action, id, ttl) {
    const { verb, doing, warning } = DEEDS[action];
    const harmless = HARMLESS.has(action);
    const question = { title: `${verb} the stack?`, text: `${id}: ${warning}`, verb, harmless };
    const sure = !warning || (await confirm(question, this.stacks, () => (this.stacks.get(id) ? question : null)));
    if (sure === null) return false;
    try {
      if (action === "delete") {
        await ask("DELETE", pathOf(id));
        this.stacks.remove(id);
        this.stacks.flush(true);
        tell(`${id} is deleted`);
        return true;
      }
      /** @type {StackData} */
      const stack = await ask("POST", pathOf(id, action), ttl ? { body: { ttl } } : {});
      if (this.stacks.get(id)) this.stacks.put(stack); // else it went meanwhile
      const state = action === "stop" ? "stopped" : doing.toLowerCase();
      tell(ttl ? `${id} has ${left(Date.parse(stack.ttl_expires_at))} left` : `${id} is ${state}`);
      return true;
    } catch (error) {
      complain(error);
      return false;
    }
  }

  /**
   * Do something to many stacks, as one job: to those of them that are still there when it is confirmed. `which` says how
   * they were chosen.
   *
   * @param {Action} action @param {() => string[]} chosen @param {string} which
   */
  async many(action, chosen, which) {
    const all = chosen();
    const isAble = (/** @type {string} */ id) => action !== "extend" || !this.stacks.get(id)?.ended;
    let ids = all.filter(isAble);
    const ended = all.length - ids.length;
    const left = ended ? `${ended} more ${ended === 1 ? "has" : "have"} ended, which only a restart changes.` : "";
    if (!ids.length && ended)
      complain(`${ended} ${plural(ended)} cannot be extended: the pods have ended. Restart them.`);
    const ask = () => this.#question(action, ids, [which, left].filter(Boolean).join(" "));
    const now = () => {
      ids = ids.filter((id) => this.stacks.get(id) && isAble(id));
      return ids.length ? ask() : null;
    };
    const answer = ids.length ? await confirm(ask(), this.stacks, now) : null;
    if (answer !== null) await this.send(action, ids, answer);
  }

  /** @param {Action} action @param {string[]} ids @param {string} which */
  #question(action, ids, which) {
    const { verb, warning, above } = DEEDS[action];
    const count = ids.length;
    const kinds = [...Map.groupBy(ids, (id) => this.stacks.get(id)?.status ?? "stopped")];
    const details = ids.slice(0, LISTED).map((id) => this.stacks.nameOf(id));
    if (count > LISTED) details.push(`… and ${count - LISTED} more`);
    const statuses = kinds.map(([status, list]) => `${list.length} ${WORDS[status]}`).join(", ");
    return {
      title: `${verb} ${count} ${plural(count)}?`,
      text: [which, `${statuses}.`, warning].filter(Boolean).join(" "),
      details,
      verb: `${verb} ${count}`,
      type: count > above ? String(count) : null,
      harmless: HARMLESS.has(action),
      input: action === "extend" ? { name: "By how much, such as 30m or 2h", value: "30m" } : null,
    };
  }

  /** Do it as one job, without a question. @param {Action} action @param {string[]} ids @param {string} ttl */
  async send(action, ids, ttl) {
    try {
      const verb = action === "move" ? "restart" : action;
      const body = { action: verb, stack_ids: ids, ...(action === "extend" && { ttl }) };
      const { job_id: job } = await ask("POST", "/stacks/batch", { body });
      this.selection.drop(ids);
      await this.#follow(action, job);
    } catch (error) {
      complain(error);
    }
  }

  /** The same to the stacks that are selected and shown. @param {Action} action */
  selected(action) {
    const { words } = this.stacks.view;
    const { all } = this.selection.hidden;
    const which = [
      words ? `The filter is ${words}.` : "No filter is set.",
      all ? `${all} more are selected but hidden; they stay.` : "",
    ];
    return this.many(action, () => this.selection.ids, which.filter(Boolean).join(" "));
  }

  /** Say how a job goes on, and what came of it as long as that may change. @param {Action} action @param {string} id */
  async #follow(action, id) {
    const { doing, done } = DEEDS[action];
    for (;;) {
      /** @type {Job | Refusal} */
      const job = await ask("GET", `/stacks/batch/${encodeURIComponent(id)}`).catch((error) => error);
      const isKnown = !(job instanceof Error);
      const isOver = isKnown && (job.status === "completed" || job.status === "failed");
      if (isKnown) {
        const { failed, not_found: gone, outcome, errors = [] } = job;
        const counts = [`${job.done} ${done}`, gone && `${gone} were gone already`, failed && `${failed} failed`];
        const all = counts.filter(Boolean).join(", ") + (outcome ? `: ${cameOf(outcome)}` : "");
        const words = isOver ? all : `${doing}: ${job.done + gone + failed} of ${job.total}`;
        const why = errors.slice(0, 3).map((each) => `${this.stacks.nameOf(each.stack_id)}: ${each.error}`);
        tell([words, ...why].join("\n"), id, failed > 0 || Boolean(outcome?.statuses.failed));
      } else tell(`The job continues, but its progress is unknown: ${job.message}`, id, true);
      if (isKnown ? isOver && (job.outcome?.final ?? true) : job.status) return;
      await new Promise((resolve) => setTimeout(resolve, isOver ? WATCH : POLL));
    }
  }

  #draw() {
    const { ids, hidden } = this.selection;
    const { filtered, closed } = hidden;
    const more = [
      `${ids.length} selected`,
      filtered && `${filtered} more ${filtered === 1 ? "is" : "are"} hidden by the filter`,
      closed && `${closed} more ${closed === 1 ? "is in a closed group" : "are in closed groups"}`,
    ];
    say(this.count, more.filter(Boolean).join(", "));
    show(
      this.chosen,
      this.count,
      h("span", { class: "spring" }),
      button("Clear", () => this.selection.clear(), { class: "plain", "data-key": "clear" }),
      ACTIONS.map((action) => {
        const text = `${DEEDS[action].verb}${ids.length && action === "delete" ? ` ${ids.length}` : ""}…`;
        const kind = ["writes", action === "delete" && "primary danger"];
        return button(text, () => this.selected(action), { class: kind, disabled: !ids.length, "data-key": action });
      }),
    );
    this.place.hidden = !ids.length && !hidden.all;
  }
}
