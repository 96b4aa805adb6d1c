// One row of the table. It is made once and changed where its stack has changed.

import { h, say } from "../shared/dom.js";
import { WORDS } from "./stacks.js";
import { age, full, left } from "./times.js";

const SOON = 5 * 60_000;

export class Row {
  #stack = null;
  #index = -1;
  #state = "";

  constructor(actions) {
    this.box = h("input", { type: "checkbox", tabindex: "-1" });
    this.status = h("span", { class: "status" });
    this.reason = h("span", { class: "reason" });
    this.id = h("span", { class: "mono id" });
    this.address = h("button", { type: "button", class: "plain mono address", tabindex: "-1" });
    this.more = h("span", { class: "quiet more" });
    this.node = h("span", { class: "node" });
    this.age = h("span", { class: "num" });
    this.left = h("span", { class: "num left" });
    this.labels = h("span", { class: "labels quiet" });
    const cell = (name, ...children) => h("td", { role: "gridcell", class: name }, ...children);
    this.element = h(
      "tr",
      { role: "row", tabindex: "-1" },
      cell("c-box", this.box),
      cell("c-status", this.status, this.reason),
      cell("c-id", this.id),
      cell("c-address", this.address, this.more),
      cell("c-node", this.node),
      cell("c-age", this.age),
      cell("c-left", this.left),
      cell("c-labels", this.labels),
    );
    this.box.addEventListener("click", (event) => {
      event.stopPropagation();
      actions.select(this.#stack.stack_id, this.box.checked, event.shiftKey);
    });
    this.address.addEventListener("click", (event) => {
      event.stopPropagation();
      actions.copy(this.#stack.address);
    });
    this.element.addEventListener("click", (event) => {
      if (!event.target.closest(".c-box")) actions.open(this.#stack.stack_id);
    });
  }

  get stack() {
    return this.#stack;
  }

  /** Show a stack at a place of the list. */
  update(stack, index, { selected, active, open }) {
    if (stack !== this.#stack) this.#show(stack);
    if (index !== this.#index) {
      this.#index = index;
      this.element.setAttribute("aria-rowindex", String(index + 2));
    }
    const state = `${selected}${active}${open}`;
    if (state !== this.#state) {
      this.#state = state;
      this.box.checked = selected;
      this.element.setAttribute("aria-selected", String(selected));
      this.element.tabIndex = active ? 0 : -1;
      for (const inner of [this.box, this.address]) inner.tabIndex = active ? 0 : -1;
      this.element.classList.toggle("selected", selected);
      this.element.classList.toggle("active", active);
      this.element.classList.toggle("open", open);
    }
  }

  /** What changes with the time alone. */
  tick() {
    say(this.age, age(this.#stack.created_at));
    say(this.left, left(this.#stack.ttl_expires_at));
    this.left.classList.toggle("soon", Date.parse(this.#stack.ttl_expires_at) - Date.now() < SOON);
  }

  #show(stack) {
    const same = this.#stack?.stack_id === stack.stack_id;
    this.#stack = stack;
    this.element.dataset.id = stack.stack_id;
    this.element.dataset.status = stack.status;
    if (!same) this.box.setAttribute("aria-label", `Select ${stack.stack_id}`);
    say(this.status, WORDS[stack.status] ?? stack.status);
    say(this.reason, stack.status_reason ?? "");
    this.reason.title = stack.status_message ?? "";
    say(this.id, stack.stack_id);
    say(this.address, stack.address || "no address");
    this.address.disabled = !stack.address;
    this.address.setAttribute("aria-label", stack.address ? `Copy ${stack.address}` : "no address");
    say(this.more, stack.addresses.length > 1 ? `+${stack.addresses.length - 1}` : "");
    say(this.node, stack.node_id ?? "–");
    say(this.labels, stack.labelled.join("  "));
    this.labels.title = stack.labelled.join("\n");
    this.age.title = `created ${full(stack.created_at)}`;
    this.left.title = `expires ${full(stack.ttl_expires_at)}`;
    this.tick();
  }
}
