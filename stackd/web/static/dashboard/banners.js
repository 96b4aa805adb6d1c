// What the person on duty must know: a brake is on, Kubernetes is away, or stackd itself does not answer.

import { ask } from "./api.js";
import { confirm, dialog } from "./dialogs.js";
import { fill, h, inline } from "../shared/dom.js";
import { complain, tell } from "./toasts.js";

const EVERY = 5_000;

export class Banners {
  #drawn = "";
  #since = null;

  constructor(place) {
    this.place = place;
  }

  start() {
    this.timer = setInterval(() => this.look(), EVERY);
    this.look();
  }

  stop() {
    clearInterval(this.timer);
    this.#draw([], []);
  }

  /** Ask whether everything works. */
  async look() {
    try {
      await ask("GET", "/readyz");
      this.#since = null;
      this.#draw([], []);
    } catch (error) {
      if (error.status === 401) return;
      if (error.status === 0) {
        this.#since ??= new Date();
        const time = this.#since.toLocaleTimeString([], { hour12: false });
        this.#draw([`stackd has not answered since ${time}. What you see is what was last known.`], []);
      } else {
        this.#since = null;
        this.#draw(error.body?.reasons ?? [error.message], error.body?.held ?? []);
      }
    }
  }

  #draw(reasons, held) {
    const state = JSON.stringify([reasons, held]);
    if (state === this.#drawn) return;
    this.#drawn = state;
    const rows = reasons.map((reason) => h("p", {}, inline(reason)));
    if (!rows.length) {
      fill(this.place);
      return;
    }
    const look = h("button", { type: "button" }, "What would be done?");
    look.addEventListener("click", () => this.#plan());
    const release = h("button", { type: "button", class: "danger" }, "Release …");
    release.addEventListener("click", () => this.#release(held));
    fill(this.place, h("div", { class: ["banner", held.length && "brake"] }, h("div", {}, rows), held.length ? h("div", { class: "buttons" }, look, release) : null));
  }

  async #plan() {
    try {
      const plan = await ask("GET", "/reconcile");
      const box = dialog("What reconciliation would do", { class: "plan" });
      const kept = new Set(plan.held);
      const rows = plan.actions.map(({ action, name, why }) =>
        h("li", {}, h("b", {}, action.replaceAll("_", " ")), h("span", { class: "mono" }, ` ${name} `), h("span", { class: "quiet" }, why), kept.has(name.replace(/^svc-/, "")) ? h("em", {}, " held") : null),
      );
      box.append(plan.blocked ? h("p", {}, plan.blocked) : h("ul", { class: "details", tabindex: "0" }, rows.length ? rows : h("li", {}, "Nothing.")));
      box.showModal();
    } catch (error) {
      complain(error);
    }
  }

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
