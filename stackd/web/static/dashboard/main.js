// The dashboard: puts its parts together, and listens to the keyboard.

/** @import { State } from "./feed.js" */

import { at, button, copy, found, h, observeHeight, say, show } from "../shared/dom.js";
import { openAccess } from "./access.js";
import { openActivity } from "./activity.js";
import { ask, onUnauthorized, Refusal, send, sentence } from "./api.js";
import { Attention } from "./attention.js";
import { Banners, Link, showOwner, standby } from "./banners.js";
import { Actions, Selection } from "./bulk.js";
import { Create } from "./create.js";
import { complain, help, tell } from "./dialogs.js";
import { Feed } from "./feed.js";
import { Filters } from "./filters.js";
import { Glance } from "./glance.js";
import { Links } from "./links.js";
import { Panel } from "./panel.js";
import { Roster } from "./roster.js";
import { key } from "./session.js";
import { Stacks } from "./stacks.js";
import { Table } from "./table.js";
import { setClock } from "./times.js";
import { View } from "./view.js";

/** The key of a link for a helper: it does not stay in the address. */
const handed = new URLSearchParams(location.hash.slice(1)).get("key")?.replace(/[\s.,;)]+$/, "");
if (handed) history.replaceState(null, "", location.pathname);
const field = found("key", HTMLInputElement);
const view = new View();
const links = new Links();
const stacks = new Stacks(view, links);
const selection = new Selection(stacks);
const actions = new Actions(stacks, selection);
const link = new Link(() => feed?.retry());
const banners = new Banners(at("banners"), stacks, (answered) => {
  if (answered && link.state === "away") feed?.retry();
  else if (!answered) feed?.doubt();
});
const glance = new Glance(stacks);
const table = new Table(found("table", HTMLTableElement), stacks, selection, {
  copy: (address) => copy(address, tell),
  select: (id, on, many) => {
    selection.set(many ? table.between(id) : [id], on);
    table.anchor = id;
  },
});
const panel = new Panel(at("panel"), stacks, actions);
new Filters(stacks, actions, () => table.first());
new Attention(stacks, actions, logs);
new Roster(stacks, links, actions);
/** What had the focus before the panel was opened. @type {Element | null} */
let opener = null;
/** @type {Feed | null} */
let feed = null;
/** Who has signed in in this browser. */
let person = "";

/** The panel shows the stack that the view has open. */
function showOpened() {
  const before = panel.id;
  const { stack } = view.state;
  if (!feed || stack === before) return;
  if (!before) opener = document.activeElement;
  table.open(stack);
  if (stack) panel.show(stack);
  else {
    panel.hide();
    if (opener instanceof HTMLElement && opener.isConnected && opener !== document.body) opener.focus();
    else if (before) table.focus(before);
  }
}

/** Open the logs of a stack. @param {string} id */
function logs(id) {
  panel.part = "Logs";
  if (panel.id === id) panel.show(id);
  else view.open(id);
}

const mayWrite = () => document.body.dataset.scope !== "read";

function create() {
  if (!mayWrite()) return;
  const created = (/** @type {import("./stacks.js").StackData} */ stack) => {
    stacks.put(stack);
    stacks.flush(true);
    view.open(stack.stack_id);
  };
  new Create(created, view.state.template);
}

const activity = () => openActivity(stacks, (id) => view.open(id));

/** The feed became live or lost its connection: refresh what does not come with it. @param {State} state */
function linked(state, why = "") {
  const before = link.state;
  link.show(state, why);
  if (before === state || before === "off") return;
  banners.look();
  if (state === "away") return;
  glance.refresh();
  showOwner(at("owner"));
}

function enter() {
  at("login").hidden = true;
  for (const id of ["board", "new", "show-activity", "give-access"]) at(id).hidden = false;
  shape();
  at("leave").hidden = !(key.get() || person);
  show(at("leave"), key.get() ? ["Forget", h("span", { class: "wide" }, " key")] : "Sign out");
  at("leave").title = key.get() ? "" : person;
  feed = new Feed({
    list: (all) => stacks.replace(all),
    stack: (stack) => stacks.put(stack),
    gone: (id) => stacks.remove(id),
    clock: setClock,
    state: linked,
    alive: () => link.alive(),
  });
  feed.start();
  banners.start();
  glance.start();
  links.refresh();
  showOwner(at("owner"));
  showOpened();
}

function leave(why = "") {
  feed?.stop();
  feed = null;
  banners.stop();
  glance.stop();
  links.stop();
  panel.hide();
  stacks.clear();
  selection.clear();
  link.show("off");
  for (const id of ["board", "new", "show-activity", "give-access", "leave"]) at(id).hidden = true;
  at("login").hidden = false;
  say(at("login-error"), why);
  field.focus();
}

/** The page has no buttons for what the key may not do: they are not shown for its scope. */
async function shape() {
  const { scope } = await ask("GET", "/key").catch(() => ({ scope: "admin" }));
  document.body.dataset.scope = scope;
}

/** Use a key, if it is good. @param {string} text */
async function login(text) {
  key.try(text);
  try {
    await ask("GET", "/stats");
    field.value = "";
    if (feed) leave(); // another tab has handed its key over meanwhile
    key.keep();
    enter();
  } catch (error) {
    const elsewhere = error instanceof Refusal && error.status === 503 ? await standby() : null;
    key.try("");
    show(at("login-error"), elsewhere ?? sentence(error));
    field.select();
  }
}

function drawEmpty() {
  const none = stacks.arrived && stacks.rows.length === 0;
  at("loading").hidden = stacks.arrived;
  at("empty").hidden = !none;
  at("table").hidden = none || !stacks.arrived;
  const said = h("p", {}, view.words ? "No stack matches the filter." : "There are no stacks.");
  show(at("empty"), none && said, none && !view.words && button("Create one", create, { class: "writes" }));
}

/** @type {Record<string, () => unknown>} */
const KEYS = {
  "/": () => at("find").focus(),
  "?": help,
  j: () => table.move(1),
  k: () => table.move(-1),
  a: () => at("show-activity").click(),
  n: () => at("new").click(),
  l: () => {
    const id = panel.id ?? table.active;
    if (id) logs(id);
  },
  x: () => table.active && mayWrite() && selection.set([table.active], !selection.has(table.active)),
  c: () => {
    const stack = stacks.get(panel.id ?? table.active ?? "");
    if (stack?.address) copy(stack.address, tell);
  },
};

/** Without a connection no button opens anything that could only fail. @param {MouseEvent} event */
function offline(event) {
  if (link.state !== "away" || !(event.target instanceof Element) || !event.target.closest(".writes, .asks")) return;
  event.stopPropagation();
  event.preventDefault();
  complain("There is no connection to stackd.");
}

/** @param {KeyboardEvent} event */
function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || !feed || document.querySelector("dialog[open]")) return;
  const { target } = event;
  if (!(target instanceof Element)) return;
  const typing = target.closest("input:not([type=checkbox]), textarea, select");
  if (event.key === "Escape") {
    if (typing instanceof HTMLElement && typing.closest(".filters")) typing.id !== "find" && typing.blur();
    else if (view.state.stack) view.close();
    else selection.clear();
    return;
  }
  if (typing) return;
  const row = target instanceof HTMLElement && target.matches("tbody tr[data-id]") ? target : null;
  if (event.key === "Enter" && row?.dataset.id) {
    event.preventDefault();
    view.open(row.dataset.id);
  } else if (row && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
    event.preventDefault();
    table.move(event.key === "ArrowDown" ? 1 : -1);
  } else if (Object.hasOwn(KEYS, event.key)) {
    event.preventDefault();
    KEYS[event.key]?.();
  }
}

observeHeight("--foot", "foot");
stacks.subscribe(drawEmpty);
view.subscribe(showOpened);
onUnauthorized((refused) => {
  if (!feed) return;
  key.drop();
  leave(refused.message);
});
key.listen(
  () => feed || enter(),
  () => feed && leave("The key was forgotten in another tab."),
);
document.addEventListener("keydown", pressed);
document.addEventListener("visibilitychange", () => (document.hidden ? feed?.rest() : feed?.wake()));
addEventListener("online", () => feed?.retry());
document.addEventListener("click", offline, true);
at("login-form").addEventListener("submit", (event) => {
  event.preventDefault();
  login(field.value.trim());
});
at("give-access").addEventListener("click", () => openAccess());
at("leave").addEventListener("click", async () => {
  if (!key.get()) await send("POST", "/auth/logout").catch((error) => tell(sentence(error)));
  key.forget();
  leave();
});
at("new").addEventListener("click", create);
at("show-activity").addEventListener("click", activity);
at("show-help").addEventListener("click", help);
at("copy-link").addEventListener("click", () => copy(location.origin + location.pathname + view.hash(), tell));

/** Whether requests can be sent as they are: none needs a key, or somebody has signed in. */
async function mayEnter() {
  const { open, issuer } = at("login").dataset;
  if (open === "true" || !issuer) return open === "true";
  const link = found("sign-in", HTMLAnchorElement);
  link.textContent = `Sign in with ${issuer}`;
  link.hidden = false;
  link.addEventListener("click", () => {
    link.href = `/auth/login?view=${encodeURIComponent(view.hash().slice(1))}`;
  });
  person = (await ask("GET", "/key").catch(() => ({ name: "" }))).name;
  return Boolean(person);
}

// A key that is no longer good brings the login back.
if (!handed && (key.get() || (await key.ask()) || (await mayEnter()))) {
  if (!feed) enter();
} else if (!feed) {
  leave();
  if (handed) login(handed);
}
