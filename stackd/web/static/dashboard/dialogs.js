// Dialogs: the browser's own, which hold the focus and give it back. And short messages at the edge.

/** @import { Value } from "../shared/dom.js" */

import { at, button, h, say, show } from "../shared/dom.js";
import { sentence } from "./api.js";

const STAY = 4_000;
const STAY_LONG = 10_000;

/** A modal dialog with a title; it is in the page until it closes. @param {string} title @param {Record<string, Value>} [attributes] */
export function dialog(title, attributes = {}) {
  const name = `dialog-${crypto.getRandomValues(new Uint32Array(1))[0]}`;
  const before = document.activeElement;
  const close = button("✕", () => box.close(), { class: "plain", "aria-label": "Close" });
  const head = h("header", { class: "row" }, h("h2", { id: name }, title), close);
  const box = h("dialog", { "aria-labelledby": name, ...attributes, class: ["box", attributes.class] }, head);
  box.addEventListener("close", () => {
    box.remove();
    const around = document.querySelector("dialog[open], #panel:not([hidden]), #stacks");
    const back = before?.isConnected && before !== document.body ? before : around; // it may have gone meanwhile
    if (back instanceof HTMLElement) back.focus({ preventScroll: true });
  });
  box.addEventListener("click", (event) => {
    if (event.target === box && !box.dataset.keep) box.close(); // a click beside it
  });
  document.body.append(box);
  return box;
}

/**
 * What to ask: the title, what it means, what it is about, and the button's word; `type` is what has to be typed first,
 * `input` a field with its name and the text that it begins with; `harmless` if Enter may do it at once.
 *
 * @typedef {{ title: string, text: string, details?: string[], verb: string, type?: string | null, harmless?: boolean,
 *   input?: { name: string, value: string } | null }} Question
 */

/**
 * Ask before something is done. Resolves to null, or to the text of the field, which may be empty. `now` is the question
 * as it has become after each change of the subject; null where nothing is left to ask about.
 *
 * @param {Question} question @param {import("./subject.js").Subject} [subject] @param {() => Question | null} [now]
 * @returns {Promise<string | null>}
 */
export function confirm(question, subject, now = () => question) {
  return new Promise((resolve) => {
    const { harmless = false, input = null } = question;
    const box = dialog(question.title, { class: "confirm", role: "alertdialog" });
    const yes = h("button", { type: "submit", class: ["primary", !input && !harmless && "danger"] });
    const no = button("Cancel", () => box.close());
    const field = h("input", { type: "text", autocomplete: "off", spellcheck: "false", value: input?.value });
    const [text, number, list] = [h("p"), h("b"), h("ul", { class: "details sunken" })];
    const asked = h("label", {}, h("span", {}, input ? input.name : ["Type ", number, " to go on"]), field);
    const form = h("form", {}, text, list, asked, h("div", { class: "buttons" }, no, yes));
    let { type = null } = question;
    const check = () => {
      yes.disabled = type !== null && field.value.trim() !== type;
    };
    const draw = () => {
      const asks = now();
      if (!asks) return box.close();
      const { title, details = [], verb } = asks;
      type = asks.type ?? null;
      say(box.querySelector("h2") ?? text, title);
      say(text, asks.text);
      show(
        list,
        details.map((line) => h("li", { class: "mono" }, line)),
      );
      list.hidden = details.length === 0;
      list.tabIndex = details.length > 6 ? 0 : -1;
      asked.hidden = !input && type === null;
      say(number, type ?? "");
      say(yes, verb);
      check();
    };
    /** @type {string | null} */
    let answer = null;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (yes.disabled) return;
      answer = field.value.trim();
      box.close();
    });
    const unfollow = subject?.subscribe(draw);
    box.addEventListener("close", () => {
      unfollow?.();
      if (answer === null) tell("Nothing was changed.");
      resolve(answer);
    });
    field.addEventListener("input", check);
    box.append(form);
    draw();
    box.showModal();
    (asked.hidden ? (harmless ? yes : no) : field).focus();
    if (input) field.select();
  });
}

/** @type {[string, string][]} */
const KEYS = [
  ["/", "filter by what is typed; Enter goes to the first stack, Esc clears it"],
  ["j  k", "next, previous stack"],
  ["Enter", "open the stack"],
  ["Esc", "close; clear the selection"],
  ["x", "select the stack"],
  ["c", "copy its address"],
  ["l", "read its logs"],
  ["n", "new stack"],
  ["a", "who did what"],
  ["?", "this help"],
];

/** What the keys do. */
export function help() {
  const box = dialog("Keyboard", { class: "help" });
  const rows = KEYS.flatMap(([keys, text]) => [
    h(
      "dt",
      {},
      keys.split("  ").map((key) => h("kbd", {}, key)),
    ),
    h("dd", {}, text),
  ]);
  box.append(h("dl", {}, rows));
  box.showModal();
}

/** Say that something was done; what is said under the same key takes its place. @param {string} text @param {string} [key] @param {boolean} [wrong] */
export const tell = (text, key, wrong = false) => toast(text, wrong, key);

/** Say that something went wrong. @param {unknown} error */
export const complain = (error) => toast(sentence(error), true);

/** @type {Map<string, { text: string, element: HTMLElement }>} */
const keyed = new Map();

/** @param {string} text @param {boolean} wrong @param {string} [key] */
function toast(text, wrong, key = "") {
  const before = keyed.get(key);
  if (before?.text === text) return;
  before?.element.remove();
  const close = button("✕", () => element.remove(), { class: "plain", "aria-label": "Dismiss" });
  const look = { class: ["row toast", wrong && "wrong"], role: wrong && "alert" };
  const element = h("div", look, h("span", {}, text), close);
  if (key) keyed.set(key, { text, element });
  const toasts = at("toasts");
  for (const each of toasts.children) if (each.firstChild?.textContent === text) each.remove();
  toasts.append(element);
  while (toasts.children.length > 3) toasts.firstElementChild?.remove();
  if (!(key && wrong)) setTimeout(() => element.remove(), key || wrong ? STAY_LONG : STAY); // what a job says stays
}
