// Dialogs: the browser's own, which hold the focus and give it back.

/** @import { Value } from "../shared/dom.js" */

import { button, fill, h } from "../shared/dom.js";

/**
 * A modal dialog with a title; it is in the page until it closes.
 *
 * @param {string} title
 * @param {Record<string, Value>} [attributes]
 */
export function dialog(title, attributes = {}) {
  const name = `dialog-${crypto.getRandomValues(new Uint32Array(1))[0]}`;
  const close = button("✕", () => box.close(), { class: "plain", "aria-label": "Close" });
  const box = h(
    "dialog",
    { "aria-labelledby": name, ...attributes },
    h("header", {}, h("h2", { id: name }, title), close),
  );
  box.addEventListener("close", () => box.remove());
  box.addEventListener("click", (event) => {
    if (event.target === box && !box.dataset.keep) box.close(); // a click beside it
  });
  document.body.append(box);
  return box;
}

/**
 * What to ask: the title, what it means, what it is about, and the button's word.
 *
 * @typedef {{ title: string, text: string, details?: string[], verb: string, type?: string | null }} Question
 */

/**
 * Ask before something that cannot be undone. Resolves to true or false.
 * With `type`, the person has to type that text first.
 *
 * @param {Question} question
 * @returns {Promise<boolean>}
 */
export function confirm({ title, text, details = [], verb, type = null }) {
  return new Promise((resolve) => {
    const box = dialog(title, { class: "confirm", role: "alertdialog" });
    const yes = h("button", { type: "submit", class: "primary danger", disabled: type !== null }, verb);
    const no = button("Cancel", () => box.close());
    const typed =
      type === null
        ? null
        : h("input", { type: "text", autocomplete: "off", spellcheck: "false", inputmode: "numeric" });
    typed?.addEventListener("input", () => (yes.disabled = typed.value.trim() !== type));
    const form = h(
      "form",
      {},
      h("p", {}, text),
      details.length
        ? h(
            "ul",
            { class: "details", tabindex: details.length > 6 ? "0" : null },
            details.map((line) => h("li", { class: "mono" }, line)),
          )
        : null,
      typed && h("label", {}, h("span", {}, "Type ", h("b", {}, type), " to go on"), typed),
      h("div", { class: "buttons" }, no, yes),
    );
    let answer = false;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (yes.disabled) return;
      answer = true;
      box.close();
    });
    box.addEventListener("close", () => resolve(answer));
    box.append(form);
    box.showModal();
    (typed ?? no).focus();
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
  ["?", "this help"],
];

/** What the keys do. */
export function help() {
  const box = dialog("Keyboard", { class: "help" });
  const rows = KEYS.map(([keys, text]) => [
    h(
      "dt",
      {},
      keys.split("  ").map((key) => h("kbd", {}, key)),
    ),
    h("dd", {}, text),
  ]);
  box.append(fill(h("dl", {}), ...rows));
  box.showModal();
}
