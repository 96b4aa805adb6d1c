// Whether the daemon answers: the mark in the bar, and, while it does not, how old what is shown is.

/** @import { State } from "./feed.js" */

import { at, button, fill, h, say } from "../shared/dom.js";
import { clock, length } from "./times.js";

/** @type {Record<State | "off", string>} */
const WORDS = { live: "live", polling: "polling every 5 s", away: "no connection", off: "" };

export class Link {
  /** @type {State | "off"} */
  state = "off";
  /** When the daemon last sent something; 0 before that. */
  #lastHeard = 0;

  /** @param {() => void} retry */
  constructor(retry) {
    this.mark = at("link");
    this.text = at("link-text");
    this.notice = at("away");
    this.words = h("span");
    this.age = h("span", { "aria-hidden": "true" }); // it changes every second, which nobody wants read out
    fill(this.notice, h("p", {}, this.words, this.age), button("Retry now", retry));
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
    say(this.text, WORDS[state]);
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
