// The dashboard: puts its parts together, and listens to the keyboard.

import { Actions } from "./actions.js";
import { ask, key, onUnauthorized } from "./api.js";
import { Banners } from "./banners.js";
import { openCreate } from "./create.js";
import { help } from "./dialogs.js";
import { Feed } from "./feed.js";
import { Figures } from "./figures.js";
import { Filters } from "./filters.js";
import { Panel } from "./panel.js";
import { Progress } from "./progress.js";
import { Selection } from "./selection.js";
import { Stacks } from "./stacks.js";
import { Table } from "./table.js";
import { at, copy, fill, h, say } from "../shared/dom.js";
import { setClock } from "./times.js";
import { tell } from "./toasts.js";

const LINKS = { live: "live", polling: "every 5 s", away: "no connection", off: "" };

const stacks = new Stacks();
const selection = new Selection();
const progress = new Progress(at("selection"), selection, stacks);
const actions = new Actions(stacks, selection, progress);
const banners = new Banners(at("banners"));
const filters = new Filters(stacks);
const places = { status: at("figure-status"), nodes: at("figure-nodes"), ports: at("figure-ports"), room: at("figure-room") };
const figures = new Figures(places, stacks, filters);
const table = new Table(at("table"), stacks, selection, {
  open: openPanel,
  copy: (address) => address && copy(address, tell),
  select: (id, on, many) => {
    for (const each of many ? table.between(id) : [id]) selection.toggle(each, on);
    table.active = id;
  },
});
const panel = new Panel(at("panel"), stacks, actions, (id) => {
  table.open(null);
  table.focus(id);
});
let feed = null;

function openPanel(id) {
  table.open(id);
  panel.open(id);
}

function create() {
  openCreate((stack) => {
    stacks.put(stack);
    openPanel(stack.stack_id);
  });
}

function link(state, why = "") {
  if (feed && at("link").dataset.state !== state) banners.look();
  at("link").dataset.state = state;
  say(at("link-text"), LINKS[state] + (state === "away" && why ? ` – ${why}` : ""));
  at("link").title = why;
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
    job: (job) => actions.heard(job),
    clock: setClock,
    state: link,
  });
  feed.start();
  banners.start();
  figures.start();
}

function leave(why = "") {
  feed?.stop();
  feed = null;
  banners.stop();
  figures.stop();
  panel.close();
  key.forget();
  stacks.clear();
  selection.clear();
  link("off");
  for (const id of ["board", "new", "leave"]) at(id).hidden = true;
  at("login").hidden = false;
  say(at("login-error"), why);
  at("key").focus();
}

async function login(event) {
  event.preventDefault();
  key.keep(at("key").value.trim());
  try {
    await ask("GET", "/stats");
    at("key").value = "";
    enter();
  } catch (error) {
    key.forget();
    say(at("login-error"), error.message);
    at("key").select();
  }
}

function drawEmpty() {
  const none = stacks.arrived && stacks.shown.length === 0;
  at("empty").hidden = !none;
  at("table").hidden = none;
  if (!none) return;
  fill(at("empty"), stacks.narrowed ? h("p", {}, "No stack is like that.") : h("p", {}, "There are no stacks. ", h("kbd", {}, "n"), " makes one."));
}

const KEYS = {
  "/": () => at("find").focus(),
  "?": help,
  j: () => table.move(1),
  k: () => table.move(-1),
  n: create,
  x: () => table.active && selection.toggle(table.active),
  c: () => {
    const stack = stacks.get(panel.id ?? table.active);
    if (stack?.address) copy(stack.address, tell);
  },
};

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || !feed || document.querySelector("dialog[open]")) return;
  const typing = event.target.closest("input:not([type=checkbox]), textarea, select");
  if (event.key === "Escape") {
    if (typing && typing.closest(".filters")) typing.blur();
    else if (panel.id) panel.close();
    else selection.clear();
    return;
  }
  if (typing) return;
  const row = event.target.closest("tbody tr");
  if (event.key === "Enter" && row && event.target === row) {
    event.preventDefault();
    openPanel(row.dataset.id);
  } else if (row && event.target === row && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
    event.preventDefault();
    table.move(event.key === "ArrowDown" ? 1 : -1);
  } else if (KEYS[event.key]) {
    event.preventDefault();
    KEYS[event.key]();
  }
}

stacks.subscribe(drawEmpty);
progress.onDelete((ids) => actions.removeMany(ids));
onUnauthorized((refused) => feed && leave(refused.message));
document.addEventListener("keydown", pressed);
at("login-form").addEventListener("submit", login);
at("leave").addEventListener("click", () => leave());
at("new").addEventListener("click", create);
at("show-help").addEventListener("click", help);
link("off");

/** Whether requests need a key at all; the description says so, and needs none itself. */
async function needsKey() {
  try {
    const { security } = await ask("GET", "/openapi.json");
    return security.length > 0;
  } catch {
    return true;
  }
}

if (key.get() || !(await needsKey())) enter(); // a key that is no longer good brings the login back
else leave();
