// Access for people: a link that lets a helper read this page, or a player start stacks. It is shown once. Who has one of
// the former, and its end.

/** @import { Stack } from "./stacks.js" */

import { button, copy, h, say, show } from "../shared/dom.js";
import { ask, sentence } from "./api.js";
import { pairsOf } from "./create.js";
import { complain, confirm, dialog, tell } from "./dialogs.js";
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

  const helpers = h("div", { hidden: true });

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
      const note = `Whoever has this link is ${name} until ${full(end)}. It is shown once.`;
      const copied = button("Copy", () => copy(url, () => tell("copied the link")), { class: "primary" });
      form.replaceChildren(
        h("p", {}, note),
        h("code", { class: "sunken said" }, url),
        h(
          "div",
          { class: "buttons" },
          button("Revoke…", () => revoke(id, name, helpers)),
          copied,
        ),
      );
      copied.focus();
      showHelpers(helpers);
    } catch (error) {
      say(wrong, sentence(error));
    }
    make.disabled = false;
  });
  to.addEventListener("change", choose);
  choose();
  box.append(form, helpers);
  box.showModal();
  inputs.name.focus();
  showHelpers(helpers);
}

/** Show which helpers have a link that works. @param {HTMLElement} place */
async function showHelpers(place) {
  /** @type {{ links: import("./stacks.js").Schemas["KeptLink"][] }} */
  const { links } = await ask("GET", "/links?scope=read").catch(() => ({ links: [] }));
  const rows = links
    .filter((each) => !each.revoked)
    .map(({ link_id: id, name, expires_at: end, by }) => {
      const look = { class: "plain danger", "aria-label": `Revoke the link of ${name}` };
      const ends = button("Revoke…", () => revoke(id, name, place), look);
      return h(
        "li",
        { class: "row" },
        h("span", {}, h("b", {}, name), ` until ${full(end)}, by ${by}`),
        h("span", { class: "spring" }),
        ends,
      );
    });
  place.hidden = !rows.length;
  show(place, rows.length > 0 && [h("h3", {}, "Helpers who read this page"), h("ul", { class: "details" }, rows)]);
}

/** Ask, and end a link. @param {string} id @param {string} name @param {HTMLElement} place */
async function revoke(id, name, place) {
  const text = "From now on it opens nothing, and whoever has it open is signed out. Stacks stay.";
  if ((await confirm({ title: `Revoke the link of ${name}?`, text, verb: "Revoke" })) === null) return;
  try {
    await ask("DELETE", `/links/${encodeURIComponent(id)}`);
    tell(`the link of ${name} is revoked`);
  } catch (error) {
    complain(error);
  }
  showHelpers(place);
}

/** @param {string} name @param {HTMLElement} control */
const field = (name, control) => h("label", {}, name, control);
