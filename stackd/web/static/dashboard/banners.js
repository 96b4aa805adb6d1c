// What the person on duty must know: a brake is on, or Kubernetes is away. That stackd itself does not answer, it passes on.

import { button, h, inline, show } from "../shared/dom.js";
import { ask, Refusal, sentence } from "./api.js";
import { confirm, dialog } from "./dialogs.js";
import { complain, tell } from "./toasts.js";

const EVERY = 5_000;
const PATIENCE = 8_000;

/**
 * What a reconcile pass would do, as the API tells of it.
 *
 * @typedef {{ action: string, name: string, why: string }} Step
 * @typedef {{ actions: Step[], held: string[], blocked?: string | null }} Plan
 */

export class Banners {
  /** @type {number | undefined} */
  #timer;

  /**
   * @param {HTMLElement} place
   * @param {(answered: boolean) => void} answered
   */
  constructor(place, answered) {
    this.place = place;
    this.answered = answered;
  }

  start() {
    this.#timer = setInterval(() => document.hidden || this.look(), EVERY);
    this.look();
  }

  stop() {
    clearInterval(this.#timer);
    this.#draw([], []);
  }

  /** Ask whether everything works. */
  async look() {
    try {
      await ask("GET", "/readyz", { signal: AbortSignal.timeout(PATIENCE) });
      this.#draw([], []);
      this.answered(true);
    } catch (error) {
      const { status, body } = error instanceof Refusal ? error : new Refusal(0, "");
      if (status === 401) return;
      if (status) this.#draw(body?.reasons ?? [sentence(error)], body?.held ?? []);
      this.answered(status !== 0);
    }
  }

  /**
   * @param {string[]} reasons
   * @param {string[]} held
   */
  #draw(reasons, held) {
    const look = button("What would be done?", () => this.#plan());
    const release = button("Release …", () => this.#release(held), { class: "danger" });
    const rows = reasons.map((reason) => h("p", {}, inline(reason)));
    const buttons = held.length > 0 && h("div", { class: "buttons" }, look, release);
    const banner = h("div", { class: ["banner", held.length > 0 && "brake"] }, h("div", {}, rows), buttons);
    show(this.place, reasons.length > 0 && banner);
  }

  async #plan() {
    try {
      /** @type {Plan} */
      const plan = await ask("GET", "/reconcile");
      const box = dialog("What reconciliation would do", { class: "plan" });
      const kept = new Set(plan.held);
      const rows = plan.actions.map(({ action, name, why }) =>
        h(
          "li",
          {},
          h("b", {}, action.replaceAll("_", " ")),
          h("span", { class: "mono" }, ` ${name} `),
          h("span", { class: "quiet" }, why),
          kept.has(name.replace(/^svc-/, "")) ? h("em", {}, " held") : null,
        ),
      );
      box.append(
        plan.blocked
          ? h("p", {}, plan.blocked)
          : h("ul", { class: "details", tabindex: "0" }, rows.length ? rows : h("li", {}, "Nothing.")),
      );
      box.showModal();
    } catch (error) {
      complain(error);
    }
  }

  /** @param {string[]} held */
  async #release(held) {
    const sure = await confirm({
      title: "Release the brake?",
      text: `${held.length} stacks are held back from being ended or removed, although nobody asked for it. Released, that is done once.`,
      details: held.slice(0, 200),
      verb: "Release",
    });
    if (!sure) return;
    try {
      const { released } = await ask("POST", "/reconcile/confirm");
      tell(`${released} stacks are released`);
      this.look();
    } catch (error) {
      complain(error);
    }
  }
}
