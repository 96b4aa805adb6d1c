// Dialogs: the browser's own, which hold the focus and give it back. And short messages at the edge.

/** @import { Value } from "../shared/dom.js" */

import { at, button, h } from "../shared/dom.js";
import { sentence } from "./api.js";

const STAY = 4_000;
const STAY_WRONG = 10_000;

/** A modal dialog with a title; it is in the page until it closes. @param {string} title @param {Record<string, Value>} [attributes] */
export function dialog(title, attributes = {}) {
  const name = `dialog-${crypto.getRandomValues(new Uint32Array(1))[0]}`;
  const close = button("✕", () => box.close(), { class: "plain", "aria-label": "Close" });
  const head = h("header", { class: "row" }, h("h2", { id: name }, title), close);
  const box = h("dialog", { "aria-labelledby": name, ...attributes, class: ["box", attributes.class] }, head);
  box.addEventListener("close", () => box.remove());
  box.addEventListener("click", (event) => {
    if (event.target === box && !box.dataset.keep) box.close(); // a click beside it
  });
  document.body.append(box);
  return box;
}

/**
 * What to ask: the title, what it means, what it is about, and the button's word; `type` is what has to be typed first,
 * `input` a field with its name and the text that it begins with.
 *
 * @typedef {{ title: string, text: string, details?: string[], verb: string, type?: string | null,
 *   input?: { name: string, value: string } | null }} Question
 */

/**
 * Ask before something is done. Resolves to null, or to the text of the field, which may be empty.
 *
 * @param {Question} question
 * @returns {Promise<string | null>}
 */
export function confirm({ title, text, details = [], verb, type = null, input = null }) {
  return new Promise((resolve) => {
    const box = dialog(title, { class: "confirm", role: "alertdialog" });
    const yes = h("button", { type: "submit", class: ["primary", !input && "danger"], disabled: type !== null }, verb);
    const no = button("Cancel", () => box.close());
    const field = h("input", { type: "text", autocomplete: "off", spellcheck: "false", value: input?.value });
    if (type !== null) field.addEventListener("input", () => (yes.disabled = field.value.trim() !== type));
    const asked = input ? input.name : ["Type ", h("b", {}, type ?? ""), " to go on"];
    const list = { class: "details sunken", tabindex: details.length > 6 ? "0" : null };
    const form = h(
      "form",
      {},
      h("p", {}, text),
      details.length > 0 &&
        h(
          "ul",
          list,
          details.map((line) => h("li", { class: "mono" }, line)),
        ),
      (input || type !== null) && h("label", {}, h("span", {}, asked), field),
      h("div", { class: "buttons" }, no, yes),
    );
    /** @type {string | null} */
    let answer = null;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (yes.disabled) return;
      answer = field.value.trim();
      box.close();
    });
    box.addEventListener("close", () => resolve(answer));
    box.append(form);
    box.showModal();
    (field.isConnected ? field : no).focus();
    if (input) field.select();
  });
}

/** @type {[string, string][]} */
const KEYS = [
  ["/", "filter by what is typed"],
  ["j  k", "next, previous stack"],
  ["Enter", "open the stack"],
  ["Esc", "close; clear the selection"],
  ["x", "select the stack"],
  ["c", "copy its address"],
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

/** Say that something was done. @param {string} text */
export const tell = (text) => toast(text, "done", STAY);

/** Say that something went wrong. @param {unknown} error */
export const complain = (error) => toast(sentence(error), "wrong", STAY_WRONG);

/** @param {string} text @param {"done" | "wrong"} kind @param {number} stay */
function toast(text, kind, stay) {
  const close = button("✕", () => element.remove(), { class: "plain", "aria-label": "Dismiss" });
  const role = kind === "wrong" ? "alert" : null;
  const element = h("div", { class: `row toast ${kind}`, role }, h("span", {}, text), close);
  const toasts = at("toasts");
  toasts.append(element);
  while (toasts.children.length > 4) toasts.firstElementChild?.remove();
  setTimeout(() => element.remove(), stay);
}
