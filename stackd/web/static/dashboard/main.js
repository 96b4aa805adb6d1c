// The dashboard: puts its parts together, and listens to the keyboard.

import { at, button, copy, fill, found, h, say } from "../shared/dom.js";
/** @import { State } from "./feed.js" */

import { Actions } from "./actions.js";
import { ask, onUnauthorized, sentence } from "./api.js";
import { Banners } from "./banners.js";
import { Columns } from "./columns.js";
import { openCreate } from "./create.js";
import { help } from "./dialogs.js";
import { Feed } from "./feed.js";
import { Figures } from "./figures.js";
import { Filters } from "./filters.js";
import { Link } from "./link.js";
import { Panel } from "./panel.js";
import { Progress } from "./progress.js";
import { Selection } from "./selection.js";
import { key } from "./session.js";
import { Stacks } from "./stacks.js";
import { Table } from "./table.js";
import { Templates } from "./templates.js";
import { setClock } from "./times.js";
import { tell } from "./toasts.js";
import { View } from "./view.js";

const field = found("key", HTMLInputElement);
const view = new View();
const stacks = new Stacks(view);
const selection = new Selection(stacks);
const progress = new Progress(at("selection"), selection);
const actions = new Actions(stacks, selection, progress);
const link = new Link(() => feed?.retry());
const banners = new Banners(at("banners"), (answered) => {
  if (answered && link.state === "away") feed?.retry();
  else if (!answered) feed?.doubt();
});
const places = {
  status: at("figure-status"),
  nodes: at("figure-nodes"),
  ports: at("figure-ports"),
  room: at("figure-room"),
};
const figures = new Figures(places, stacks);
const templates = new Templates(at("templates"), view, (name) => create(name));
const columns = new Columns(stacks);
new Filters(stacks, view, columns);
const table = new Table(found("table", HTMLTableElement), stacks, selection, columns, {
  open: (id) => view.open(id),
  copy: (address) => copy(address, tell),
  select: (id, on, many) => {
    selection.set(many ? table.between(id) : [id], on);
    table.anchor = id;
  },
});
const panel = new Panel(at("panel"), stacks, actions);
/** @type {Feed | null} */
let feed = null;

/** The panel shows the stack that the view has open. */
function showOpened() {
  const before = panel.id;
  const { stack } = view.state;
  if (!feed || stack === before) return;
  table.open(stack);
  if (stack) panel.show(stack);
  else {
    panel.hide();
    if (before) table.focus(before);
  }
}

function create(template = "") {
  openCreate((stack) => {
    stacks.put(stack);
    view.open(stack.stack_id);
  }, template);
}

/**
 * The feed became live or lost its connection: refresh what does not come with it.
 *
 * @param {State} state
 */
function linked(state, why = "") {
  const before = link.state;
  link.show(state, why);
  if (before === state || before === "off") return;
  banners.look();
  if (state === "away") return;
  figures.refresh();
  templates.refresh();
}

function enter() {
  at("login").hidden = true;
  at("board").hidden = false;
  at("new").hidden = false;
  at("leave").hidden = !key.get();
  feed = new Feed({
    list: (all) => stacks.replace(all),
    stack: (stack) => stacks.put(stack),
    gone: (id) => stacks.remove(id),
    job: (job) => actions.jobChanged(job),
    clock: setClock,
    state: linked,
    alive: () => link.alive(),
  });
  feed.start();
  banners.start();
  figures.start();
  templates.start();
  showOpened();
}

function leave(why = "") {
  feed?.stop();
  feed = null;
  banners.stop();
  figures.stop();
  templates.stop();
  panel.hide();
  stacks.clear();
  selection.clear();
  link.show("off");
  for (const id of ["board", "new", "leave"]) at(id).hidden = true;
  at("login").hidden = false;
  say(at("login-error"), why);
  field.focus();
}

/** @param {Event} event */
async function login(event) {
  event.preventDefault();
  key.try(field.value.trim());
  try {
    await ask("GET", "/stats");
    field.value = "";
    key.keep();
    enter();
  } catch (error) {
    key.try("");
    say(at("login-error"), sentence(error));
    field.select();
  }
}

function drawEmpty() {
  const none = stacks.arrived && stacks.rows.length === 0;
  at("loading").hidden = stacks.arrived;
  at("empty").hidden = !none;
  at("table").hidden = none || !stacks.arrived;
  if (!none) return;
  const said = h("p", {}, view.narrowed ? "No stack matches the filter." : "There are no stacks.");
  fill(at("empty"), said, !view.narrowed && button("Create one", () => create()));
}

function copyLink() {
  copy(location.origin + location.pathname + view.hash(), tell);
}

/** @type {Record<string, () => unknown>} */
const KEYS = {
  "/": () => at("find").focus(),
  "?": help,
  j: () => table.move(1),
  k: () => table.move(-1),
  n: () => create(),
  x: () => table.active && selection.set([table.active], !selection.has(table.active)),
  c: () => {
    const stack = stacks.get(panel.id ?? table.active ?? "");
    if (stack?.address) copy(stack.address, tell);
  },
};

/** @param {KeyboardEvent} event */
function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || !feed || document.querySelector("dialog[open]")) return;
  const { target } = event;
  if (!(target instanceof Element)) return;
  const typing = target.closest("input:not([type=checkbox]), textarea, select");
  if (event.key === "Escape") {
    if (typing instanceof HTMLElement && typing.closest(".filters")) typing.blur();
    else if (view.state.stack) view.close();
    else selection.clear();
    return;
  }
  if (typing) return;
  const row = target.closest("tbody tr");
  if (event.key === "Enter" && row instanceof HTMLElement && target === row && row.dataset.id) {
    event.preventDefault();
    view.open(row.dataset.id);
  } else if (row && target === row && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
    event.preventDefault();
    table.move(event.key === "ArrowDown" ? 1 : -1);
  } else if (Object.hasOwn(KEYS, event.key)) {
    event.preventDefault();
    KEYS[event.key]?.();
  }
}

stacks.subscribe(drawEmpty);
view.subscribe(showOpened);
progress.onDelete(() => actions.removeSelected());
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
at("login-form").addEventListener("submit", login);
at("leave").addEventListener("click", () => {
  key.forget();
  leave();
});
at("new").addEventListener("click", () => create());
at("show-help").addEventListener("click", help);
at("copy-link").addEventListener("click", copyLink);

/** Whether requests need a key at all; the description says so, and needs none itself. */
async function needsKey() {
  try {
    const { security } = await ask("GET", "/openapi.json");
    return security.length > 0;
  } catch {
    return true;
  }
}

// A key that is no longer good brings the login back.
if (key.get() || (await key.ask()) || !(await needsKey())) {
  if (!feed) enter();
} else leave();
