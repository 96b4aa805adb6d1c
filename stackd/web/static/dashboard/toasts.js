// Short messages at the edge: what was done, and what went wrong.

import { at, button, h } from "../shared/dom.js";
import { sentence } from "./api.js";

const STAY = 4_000;
const STAY_WRONG = 10_000;

/**
 * Say that something was done.
 *
 * @param {string} text
 */
export function tell(text) {
  show(text, "done", STAY);
}

/**
 * Say that something went wrong.
 *
 * @param {unknown} error
 */
export function complain(error) {
  show(sentence(error), "wrong", STAY_WRONG);
}

/**
 * @param {string} text
 * @param {"done" | "wrong"} kind
 * @param {number} stay
 */
function show(text, kind, stay) {
  const close = button("✕", () => toast.remove(), { class: "plain", "aria-label": "Dismiss" });
  const toast = h(
    "div",
    { class: `toast ${kind}`, role: kind === "wrong" ? "alert" : null },
    h("span", {}, text),
    close,
  );
  const toasts = at("toasts");
  toasts.append(toast);
  while (toasts.children.length > 4) toasts.firstElementChild?.remove();
  setTimeout(() => toast.remove(), stay);
}
