// What the person on duty must know: whether the daemon answers, how old what is shown is, whether a brake is on or
// Kubernetes is away, and who owns the stacks.

/** @import { State } from "./feed.js" */
/** @import { Stacks } from "./stacks.js" */

import { at, button, h, inline, quiet, say, show } from "../shared/dom.js";
import { ask, Refusal, sentence } from "./api.js";
import { complain, confirm, dialog, tell } from "./dialogs.js";
import { clock, length } from "./times.js";

const EVERY = 5_000;
const PATIENCE = 8_000;
/** @type {Record<State | "off", string>} */
const WORDS = { live: "live", polling: "polling every 5 s", away: "no connection", off: "" };

/**
 * What a reconcile pass would do, as the API describes it.
 *
 * @typedef {import("./stacks.js").Schemas["Plan"]} Plan
 */

export class Link {
  /** @type {State | "off"} */
  state = "off";
  /** When the daemon last sent something; 0 before that. */
  #lastHeard = 0;

  /** @param {() => void} retry */
  constructor(retry) {
    this.mark = at("link");
    this.notice = at("away");
    this.words = h("span");
    this.age = h("span", { "aria-hidden": "true" }); // it changes every second, which nobody wants read out
    this.notice.append(h("p", {}, this.words, this.age), button("Retry now", retry));
    setInterval(() => this.#tick(), 1000);
    this.show("off");
  }

  /** The daemon has sent something. */
  alive() {
    this.#lastHeard = Date.now();
  }

  /** @param {State | "off"} state */
  show(state, why = "") {
    this.state = state;
    this.mark.dataset.state = state;
    this.mark.title = why;
    say(at("link-text"), WORDS[state]);
    const away = state === "away";
    document.body.classList.toggle("stale", away);
    this.notice.hidden = !away;
    if (away) {
      const since = this.#lastHeard ? `What you see is from ${clock(this.#lastHeard)}` : "Nothing is known yet.";
      say(this.words, `No connection: ${why}. ${since}`);
      this.#tick();
    }
    if (state === "off") this.#lastHeard = 0;
  }

  #tick() {
    if (this.notice.hidden) return;
    say(this.age, this.#lastHeard ? `, ${length(Date.now() - this.#lastHeard)} ago.` : "");
  }
}

export class Banners {
  /** @type {number | undefined} */
  #timer;

  /** @param {HTMLElement} place @param {Stacks} stacks @param {(answered: boolean) => void} answered */
  constructor(place, stacks, answered) {
    this.place = place;
    this.stacks = stacks;
    this.answered = answered;
  }

  start() {
    this.#timer = setInterval(() => document.hidden || this.look(), EVERY);
    this.look();
  }

  stop() {
    clearInterval(this.#timer);
    show(this.place);
  }

  /** Ask whether everything works. */
  async look() {
    try {
      await ask("GET", "/readyz", { signal: AbortSignal.timeout(PATIENCE) });
      show(this.place);
      this.answered(true);
    } catch (error) {
      const { status, body } = error instanceof Refusal ? error : new Refusal(0, "");
      if (status === 401) return;
      const elsewhere = status === 503 && !body?.reasons ? await standby() : null;
      if (status) this.#draw(body?.reasons ?? [sentence(error)], body?.held ?? [], elsewhere);
      this.answered(status !== 0);
    }
  }

  /** @param {string[]} reasons @param {string[]} held @param {Node | null} elsewhere */
  #draw(reasons, held, elsewhere) {
    const look = button("What would be done?", () => this.#plan());
    const release = button("Release …", () => this.#release(held), { class: "danger writes" });
    const rows = reasons.map((reason) => h("p", {}, inline(reason)));
    const buttons = held.length > 0 && h("div", { class: "buttons" }, look, release);
    show(
      this.place,
      h("div", { class: ["banner buttons", held.length > 0 && "brake"] }, h("div", {}, elsewhere ?? rows), buttons),
    );
  }

  async #plan() {
    try {
      /** @type {Plan} */
      const plan = await ask("GET", "/reconcile");
      const box = dialog("What reconciliation would do", { class: "plan" });
      const kept = new Set(plan.held);
      const rows = plan.actions.map(({ action, name, why }) => {
        const id = name.replace(/^svc-/, "");
        const words = [h("b", {}, action.replaceAll("_", " ")), ` ${this.stacks.nameOf(id)} `, quiet(why)];
        return h("li", {}, words, kept.has(id) && h("em", {}, " held"));
      });
      const list = h("ul", { class: "details sunken", tabindex: "0" }, rows.length ? rows : h("li", {}, "Nothing."));
      box.append(h("div", {}, plan.blocked || list));
      box.showModal();
    } catch (error) {
      complain(error);
    }
  }

  /** @param {string[]} held */
  async #release(held) {
    const count = String(held.length);
    const sure = await confirm({
      title: "Release the brake?",
      text: `${count} stacks are held back from being ended or removed, although nobody asked for it. Released, that is done once.`,
      details: held
        .map((id) => this.stacks.nameOf(id))
        .sort((one, other) => one.localeCompare(other, "en", { numeric: true })),
      verb: "Release",
      type: held.length > 10 ? count : null,
    });
    if (sure === null) return;
    try {
      const { released } = await ask("POST", "/reconcile/confirm");
      tell(`${released} stacks are released`);
      this.look();
    } catch (error) {
      complain(error);
    }
  }
}

/** Show whose stacks these are, and which machine wants to take over. @param {HTMLElement} place */
export async function showOwner(place) {
  const { owner = "", asked_for_by: next = "" } = await ask("GET", "/owner").catch(() => ({}));
  say(place, [owner && `owner ${owner}`, next && `${next} wants to take over`].filter(Boolean).join(", "));
}

/** On a standby: what to say, and where the owner is; else null. @returns {Promise<Node | null>} */
export async function standby() {
  try {
    const { role, owner } = await ask("GET", "/owner");
    if (role === "owner" || role === "lapsed") return null;
    if (!owner) return h("span", {}, "This stackd is a standby. Nobody owns the stacks at present.");
    const url = new URL(location.href);
    url.hostname = owner;
    return h("span", {}, "This stackd is a standby. The owner is ", h("a", { href: url.href }, owner), ".");
  } catch {
    return null;
  }
}
