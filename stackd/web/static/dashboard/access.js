// Access for people: a link that lets a helper read this page, or a player start stacks. It is shown once.

/** @import { Stack } from "./stacks.js" */

import { button, copy, h, say } from "../shared/dom.js";
import { ask, sentence } from "./api.js";
import { pairsOf } from "./create.js";
import { dialog, tell } from "./dialogs.js";
import { full } from "./times.js";

const COMMAND = "stackd key new --name NAME --scope read";

/** Ask for whom, and make the link; a player's is for the owner of the stack, if there is one. @param {Stack | null} [stack] */
export function openAccess(stack = null) {
  const box = dialog("Give access", { "data-keep": "yes" });
  const to = h("select", {}, stack ? null : h("option", { value: "helper" }, "a helper, who reads this page"));
  to.append(h("option", { value: "player" }, "a player, who starts stacks"));
  const input = (/** @type {string} */ value, hint = "") => {
    return h("input", { type: "text", value, placeholder: hint, autocomplete: "off", spellcheck: "false" });
  };
  const own = (stack?.labelled ?? []).filter((each) => !each.startsWith("challenge="));
  const inputs = {
    name: input("", "for the activity: Alice"),
    expires: input(stack ? "7d" : "24h"),
    labels: input(own.join(", "), "player=seat-12"),
    templates: input(stack?.template ?? "", "all; or lab-1, web-*"),
  };
  const { labels, templates } = inputs;
  const players = h("div", { class: "fields" }, field("Labels", labels), field("Templates", templates));
  const lasting = h("p", { class: "quiet" }, "For a key that lasts: ", h("code", {}, COMMAND));
  const wrong = h("p", { class: "error", role: "alert" });
  const make = h("button", { type: "submit", class: "primary" }, "Make the link");
  const common = h("div", { class: "fields" }, field("Name", inputs.name), field("Works for", inputs.expires));
  const form = h("form", {}, field("To", to), common, players, lasting, wrong, h("div", { class: "buttons" }, make));

  function choose() {
    players.hidden = to.value === "helper";
    lasting.hidden = !players.hidden;
  }

  /** What the API is asked for. */
  function body() {
    const { name, expires } = Object.fromEntries(Object.entries(inputs).map(([key, { value }]) => [key, value.trim()]));
    const rest = { ...(name && { name }), ...(expires && { expires }) };
    if (to.value === "helper") return { labels: {}, scope: "read", ...rest };
    return { labels: pairsOf(labels.value), templates: templates.value.split(/[\s,]+/).filter(Boolean), ...rest };
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    make.disabled = true;
    try {
      const { link_id: id, url, name, expires_at: end } = await ask("POST", "/links", { body: body() });
      const note = `Whoever has this link is ${name} until ${full(end)}. It is shown once. DELETE /links/${id} revokes it.`;
      const copied = button("Copy", () => copy(url, () => tell("copied the link")), { class: "primary" });
      form.replaceChildren(
        h("p", {}, note),
        h("code", { class: "sunken said" }, url),
        h("div", { class: "buttons" }, copied),
      );
      copied.focus();
    } catch (error) {
      say(wrong, sentence(error));
    }
    make.disabled = false;
  });
  to.addEventListener("change", choose);
  choose();
  box.append(form);
  box.showModal();
  inputs.name.focus();
}

/** @param {string} name @param {HTMLElement} control */
const field = (name, control) => h("label", {}, name, control);
