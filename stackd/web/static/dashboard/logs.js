// What a stack's containers write, followed while it is looked at.

import { button, h, say } from "../shared/dom.js";
import { pathOf, send, sentence } from "./api.js";

const TAILS = ["100", "500", "2000"];
const EVERY = 2_000;
const MOST = 1_000_000; // characters that are kept; what a follower has seen goes on growing

export class Logs {
  #text = "";
  /** @type {number | undefined} */
  #timer;
  #looked = false;

  /** `live` says whether the stack may still write something. @param {string} id @param {() => boolean} live */
  constructor(id, live) {
    this.id = id;
    this.live = live;
    const lengths = TAILS.map((count) => h("option", { value: count }, `last ${count} lines`));
    this.tail = h("select", { "aria-label": "How many lines" }, lengths);
    this.tail.addEventListener("change", () => {
      this.#text = "";
      this.refresh();
    });
    this.follow = h("input", { type: "checkbox", checked: true });
    this.follow.addEventListener("change", () => this.refresh());
    this.state = h("span", { class: "quiet", role: "status" });
    this.lines = h("pre", { class: "log sunken", tabindex: "0", "aria-label": "Log" });
    const again = button("Refresh", () => this.refresh());
    const following = h("label", { class: "row" }, this.follow, "Follow");
    this.element = h("div", {}, h("div", { class: "buttons" }, this.tail, again, following, this.state), this.lines);
  }

  /** Begin to look, or go on. */
  start() {
    this.#looked = true;
    return this.refresh();
  }

  stop() {
    this.#looked = false;
    clearTimeout(this.#timer);
  }

  /** Read what has been written by now. */
  async refresh() {
    clearTimeout(this.#timer);
    try {
      const answer = await send("GET", `${pathOf(this.id, "logs")}?tail=${this.tail.value}`);
      this.#show(await answer.text());
      say(this.state, "");
    } catch (error) {
      say(this.state, sentence(error));
    }
    clearTimeout(this.#timer);
    if (!this.#looked || !this.follow.checked) return;
    if (this.live()) this.#timer = setTimeout(() => this.#again(), EVERY);
    else if (!this.state.textContent) say(this.state, "It has stopped writing.");
  }

  /** A tab that nobody sees asks for nothing. */
  #again() {
    if (!document.hidden) this.refresh();
    else this.#timer = setTimeout(() => this.#again(), EVERY);
  }

  /**
   * Show a text, which is mostly what was there and some lines more: those are added, so that what is read, and what is
   * marked, stays where it is.
   *
   * @param {string} text
   */
  #show(text) {
    const { lines } = this;
    const atEnd = lines.scrollTop + lines.clientHeight >= lines.scrollHeight - 4;
    const more = this.#text.length < MOST ? added(this.#text, text) : null;
    if (more === null) {
      this.#text = text;
      lines.replaceChildren(text || "Nothing has been written.");
    } else if (more) {
      if (this.#text) lines.append(more);
      else lines.replaceChildren(more);
      this.#text += more;
    }
    if (more !== "" && atEnd) lines.scrollTop = lines.scrollHeight;
  }
}

/** What a later look at the end of a log has beyond an earlier one; null where the two do not meet. @param {string} before @param {string} after */
export function added(before, after) {
  if (!before) return null;
  if (before === after) return "";
  const head = after.slice(0, after.indexOf("\n") + 1);
  if (!head) return null;
  for (let place = before.indexOf(head); place >= 0; place = before.indexOf(head, place + 1)) {
    const rest = before.slice(place);
    if (after.startsWith(rest)) return after.slice(rest.length);
  }
  return null;
}
