// The palette: one field that finds stacks by id, label, address or reason, whatever the filter hides, and commands.

/** @import { Stack } from "./stack.js" */
/** @import { Stacks } from "./stacks.js" */

import { fill, h } from "../shared/dom.js";
import { dialog } from "./dialogs.js";
import { WORDS } from "./stack.js";

const MOST = 12;

/**
 * Something that one can do: what it is called, and what it does.
 *
 * @typedef {{ name: string, act: () => void }} Command
 * @typedef {{ content: (Node | string)[], act: () => void }} Entry
 */

/**
 * Open the palette.
 *
 * @param {Stacks} stacks
 * @param {Command[]} commands
 */
export function openPalette(stacks, commands) {
  new Palette(stacks, commands).show();
}

class Palette {
  /** @type {Entry[]} */
  #entries = [];
  #at = 0;

  /**
   * @param {Stacks} stacks
   * @param {Command[]} commands
   */
  constructor(stacks, commands) {
    this.stacks = stacks;
    this.commands = commands;
    this.box = dialog("Find", { class: "palette" });
    this.field = h("input", {
      type: "text",
      role: "combobox",
      "aria-label": "Find a stack or a command",
      "aria-expanded": "true",
      "aria-controls": "palette-list",
      "aria-autocomplete": "list",
      placeholder: "id, label, address, reason, or a command",
      autocomplete: "off",
      spellcheck: "false",
    });
    this.list = h("ul", { id: "palette-list", role: "listbox", "aria-label": "Found" });
    this.more = h("p", { class: "quiet", role: "status" });
  }

  show() {
    this.field.addEventListener("input", () => this.#find());
    this.field.addEventListener("keydown", (event) => this.#pressed(event));
    this.box.append(h("div", { class: "body" }, this.field, this.list, this.more));
    this.#find();
    this.box.showModal();
    this.field.focus();
  }

  #find() {
    const words = this.field.value.toLowerCase().split(/\s+/).filter(Boolean);
    const does = this.commands.filter(({ name }) => words.every((word) => name.toLowerCase().includes(word)));
    const found = words.length ? ranked(this.stacks.all.values(), words) : [];
    const all = { name: `Show all ${found.length} in the table`, act: () => this.#showAll() };
    this.#entries = [
      ...found.slice(0, MOST).map((stack) => ({ content: lineOf(stack), act: () => this.#open(stack) })),
      ...[...(found.length > 1 ? [all] : []), ...does].map(({ name, act }) => ({ content: [name], act })),
    ];
    this.#at = 0;
    this.#draw();
    const count = `${found.length} ${found.length === 1 ? "stack" : "stacks"}`;
    this.more.textContent = words.length ? (found.length > MOST ? `${MOST} of ${count}` : count) : "";
  }

  #draw() {
    const options = this.#entries.map(({ content, act }, place) => {
      const chosen = place === this.#at;
      const option = h("li", { role: "option", id: `option-${place}`, "aria-selected": String(chosen) }, content);
      option.addEventListener("click", () => this.#do(act));
      return option;
    });
    fill(this.list, options);
    if (options.length) this.field.setAttribute("aria-activedescendant", `option-${this.#at}`);
    else this.field.removeAttribute("aria-activedescendant");
    options[this.#at]?.scrollIntoView({ block: "nearest" });
  }

  /** @param {KeyboardEvent} event */
  #pressed(event) {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (by && this.#entries.length) {
      event.preventDefault();
      this.#at = (this.#at + by + this.#entries.length) % this.#entries.length;
      this.#draw();
    } else if (event.key === "Enter") {
      event.preventDefault();
      const entry = this.#entries[this.#at];
      if (entry) this.#do(entry.act);
    }
  }

  /** @param {() => void} act */
  #do(act) {
    this.box.close();
    act();
  }

  /** @param {Stack} stack */
  #open(stack) {
    this.stacks.view.open(stack.stack_id);
  }

  #showAll() {
    this.stacks.view.clearFilter();
    this.stacks.view.change({ text: this.field.value.trim() });
  }
}

/**
 * The stacks that have all of the words, the closest first: those of which a word is the whole id, label or address, or
 * its end, before those that merely have it somewhere.
 *
 * @param {Iterable<Stack>} stacks
 * @param {string[]} words
 */
export function ranked(stacks, words) {
  /** @type {{ stack: Stack, score: number }[]} */
  const found = [];
  for (const stack of stacks) {
    if (!words.every((word) => stack.haystack.includes(word))) continue;
    const names = [stack.stack_id, ...stack.addresses, ...stack.labelled, ...Object.values(stack.labels ?? {})];
    const lower = names.map((name) => name.toLowerCase());
    const score = words.reduce((sum, word) => sum + closeness(word, lower), 0);
    found.push({ stack, score });
  }
  found.sort((one, other) => other.score - one.score || (one.stack.created_at < other.stack.created_at ? 1 : -1));
  return found.map(({ stack }) => stack);
}

/**
 * @param {string} word
 * @param {string[]} names
 */
function closeness(word, names) {
  if (names.includes(word)) return 3;
  if (names.some((name) => name.startsWith(word) || name.endsWith(word))) return 2;
  return names.some((name) => name.includes(word)) ? 1 : 0;
}

/** @param {Stack} stack */
function lineOf(stack) {
  const status = h("span", { class: "status", "data-status": stack.status }, WORDS[stack.status] ?? stack.status);
  const names = Object.values(stack.labels ?? {}).join(" · ");
  return [
    names && h("b", {}, names),
    status,
    stack.status_reason ? h("span", { class: "quiet" }, stack.status_reason) : "",
    h("span", { class: "mono" }, stack.address),
    h("span", { class: "mono quiet id" }, stack.stack_id),
  ].filter((piece) => piece !== "");
}
