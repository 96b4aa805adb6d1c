// The links of players, and which stack is of which: a link has all stacks with its labels.

/** @import { Stack } from "./stacks.js" */

import { ask } from "./api.js";
import { pairs } from "./arrange.js";
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
    const labels = this.all.map(labelsOf);
    const uses = Map.groupBy(labels.flat(), (label) => label);
    const count = (/** @type {string} */ label) => uses.get(label)?.length ?? 0;
    const rarest = labels.map((all) => all.toSorted((one, other) => count(one) - count(other))[0] ?? "");
    this.#by = Map.groupBy(this.all, (_, place) => rarest[place] ?? "");
    this.tell();
  }

  /** The links whose players have a stack. @param {Pick<Stack, "labels" | "shared">} stack */
  of({ labels, shared }) {
    if (shared || !this.all.length) return [];
    const own = pairs(labels);
    const near = own.flatMap((label) => this.#by.get(label) ?? []);
    return near.filter((link) => labelsOf(link).every((label) => own.includes(label)));
  }

  /** What people call who has a stack; empty if nobody has a link for it. @param {Pick<Stack, "labels" | "shared">} stack */
  nameOf(stack) {
    const [link] = this.of(stack);
    return link?.each ? `${link.name} ${shortName(stack.labels?.player ?? "")}` : (link?.name ?? "");
  }
}

/** By which a stack is the link's. @param {Link} link */
const labelsOf = ({ each, link_id: id, labels }) => pairs(each ? { link: id } : labels);

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
