// Short messages at the edge: what was done, and what went wrong.

import { at, h } from "../shared/dom.js";

const STAY = 4_000;
const STAY_WRONG = 10_000;

/** Say that something was done. */
export function tell(text) {
  show(text, "done", STAY);
}

/** Say that something went wrong. */
export function complain(error) {
  show(error.message ?? String(error), "wrong", STAY_WRONG);
}

function show(text, kind, stay) {
  const close = h("button", { type: "button", class: "plain", "aria-label": "Dismiss" }, "✕");
  const toast = h("div", { class: `toast ${kind}`, role: kind === "wrong" ? "alert" : null }, h("span", {}, text), close);
  close.addEventListener("click", () => toast.remove());
  const toasts = at("toasts");
  toasts.append(toast);
  while (toasts.children.length > 4) toasts.firstChild.remove();
  setTimeout(() => toast.remove(), stay);
}
