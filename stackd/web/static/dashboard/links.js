// The links of players, and which stack is of which: a link has all stacks with its labels.

/** @import { Stack } from "./stacks.js" */

import { ask } from "./api.js";
import { Subject } from "./subject.js";

const OFTEN = 5_000; // while the roster is open
const SELDOM = 60_000;

/** @typedef {import("./stacks.js").Schemas["KeptLink"]} Link */

/** What a visitor of an open link can read out: the page shows it beside the link's name. @param {string} visitor */
export const shortName = (visitor) => visitor.slice(0, 4).toUpperCase();

export class Links extends Subject {
  /** Those of players that work. @type {Link[]} */
  all = [];
  arrived = false;
  /** By its rarest label. @type {Map<string, Link[]>} */
  #by = new Map();
  #text = "";
  /** @type {number | undefined} */
  #timer;
  /** Whether the roster is open. */
  isWatched = () => false;

  /** Forget all. */
  stop() {
    clearTimeout(this.#timer);
    [this.all, this.arrived, this.#text] = [[], false, ""];
    this.#by.clear();
  }

  /** Ask for them now; without an answer, those that were known stay. */
  async refresh() {
    clearTimeout(this.#timer);
    const answer = document.hidden ? null : await ask("GET", "/links").catch(() => null);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.refresh(), this.isWatched() ? OFTEN : SELDOM);
    const text = JSON.stringify(answer);
    if (!answer || text === this.#text) return;
    [this.#text, this.arrived] = [text, true];
    this.all = answer.links.filter((/** @type {Link} */ each) => !each.revoked && !each.scope);
    /** @type {Map<string, number>} */
    const counts = new Map();
    const labels = this.all.map((link) => labelsOf(link).map(([name, value]) => `${name}=${value}`));
    for (const label of labels.flat()) counts.set(label, (counts.get(label) ?? 0) + 1);
    const count = (/** @type {string} */ label) => counts.get(label) ?? 0;
    const rarest = labels.map((all) => all.sort((one, other) => count(one) - count(other))[0] ?? "");
    this.#by = Map.groupBy(this.all, (_, place) => rarest[place] ?? "");
    this.tell();
  }

  /** The link whose player has a stack; undefined if nobody has it. @param {Pick<Stack, "labels" | "shared">} stack */
  of({ labels = {}, shared }) {
    if (shared || !this.all.length) return undefined;
    const near = Object.entries(labels).flatMap(([name, value]) => this.#by.get(`${name}=${value}`) ?? []);
    return near.find((link) => labelsOf(link).every(([name, value]) => labels[name] === value));
  }

  /** What people call who has a stack; empty if nobody has a link for it. @param {Pick<Stack, "labels" | "shared">} stack */
  nameOf(stack) {
    const link = this.of(stack);
    return link?.each ? `${link.name} ${shortName(stack.labels?.player ?? "")}` : (link?.name ?? "");
  }
}

/** @param {Link} link @returns {[string, string][]} */
const labelsOf = (link) => (link.each ? [["link", link.link_id]] : Object.entries(link.labels));

/** Whether a link may start a template. @param {Link} link @param {string} template */
export const mayStart = (link, template) =>
  !link.templates.length ||
  link.templates.some((each) => {
    const pattern = each
      .replace(/[^*?\w-]/g, "\\$&")
      .replaceAll("*", ".*")
      .replaceAll("?", ".");
    return new RegExp(`^${pattern}$`).test(template);
  });
