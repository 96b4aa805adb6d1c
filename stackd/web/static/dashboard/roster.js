// The players: a row for each link, who has not started, who is stuck and why, and what a teacher does about it.

/** @import { Actions } from "./bulk.js" */
/** @import { Link, Links } from "./links.js" */
/** @import { Stack, Stacks } from "./stacks.js" */

import { at, button, copy, h, memo, numbers, paced, quiet, say, show } from "../shared/dom.js";
import { ask, sentence } from "./api.js";
import { compare, finder, fold, pairs } from "./arrange.js";
import { complain, confirm, dialog, tell } from "./dialogs.js";
import { mayStart, shortName } from "./links.js";
import { checkbox, reasonLink, wordOf } from "./table.js";
import { full, left, length, now } from "./times.js";
import { kindOf, reasonOf } from "./trouble.js";

const PAUSE = 1_000;
const MOST = 1_000;

/**
 * A link, or a visitor of an open one, with its stacks; `stack` is the one that needs attention first.
 *
 * @typedef {{ key: string, name: string, labels: string, link: Link, visitor: string, stacks: Stack[], stack: Stack | undefined,
 *   status: string, problem: string, started: number, address: string, left: number, opened: number, seen: number }} Row
 */

const COLUMNS = /** @type {const} */ (["name", "opened", "started", "status", "problem", "address", "left", "seen"]);
const TIMES = new Set(["opened", "started", "left", "seen"]);
const CELLS = [...COLUMNS, "player_name", "labels", "link", "stacks"]; // the head of the file
/** Which rows there are to choose. @type {Record<string, (row: Row) => boolean>} */
const KINDS = {
  "in all": () => true,
  "not started": (row) => !row.stack && (!row.link.each || row.visitor !== ""),
  stuck: (row) => row.problem !== "",
  "not opened": (row) => !row.opened,
};

export class Roster {
  #kind = "in all";
  /** @type {typeof COLUMNS[number]} */
  #by = "name";
  #down = false;
  /** @type {Set<string>} */
  #chosen = new Set();
  /** The keys of the rows: their order stays until the reader asks for something else. @type {string[]} */
  #order = [];
  #asked = "";
  #drawing = paced(PAUSE, () => this.#draw());

  /** @param {Stacks} stacks @param {Links} links @param {Actions} actions */
  constructor(stacks, links, actions) {
    this.stacks = stacks;
    this.links = links;
    this.actions = actions;
    links.isWatched = () => this.isOpen;
    at("show-players").addEventListener("click", () => {
      stacks.view.change({ players: this.isOpen ? "" : "open" });
      links.refresh();
    });
    for (const subject of [stacks, links]) subject.subscribe(this.#drawing.soon);
    stacks.view.subscribe(this.#drawing.now); // who asks for something else does not wait
    setInterval(() => document.hidden || this.#drawing.soon(), 5_000); // times
  }

  get isOpen() {
    return this.stacks.view.state.players !== "";
  }

  /** All rows: the players, the open links, and their visitors. @returns {Row[]} */
  #rows() {
    const { template } = this.stacks.view.state;
    const owned = [...this.stacks.all.values()].flatMap((stack) =>
      this.links.of(stack).map((link) => ({ link, stack })),
    );
    const own = Map.groupBy(owned, ({ link }) => link);
    return this.links.all.flatMap((link) => {
      if (template && !mayStart(link, template)) return [];
      const all = (own.get(link) ?? []).map(({ stack }) => stack);
      const mine = all.filter((stack) => !template || stack.template === template);
      if (!link.each) return [rowOf(link, "", mine)];
      const visitors = [...Map.groupBy(mine, (stack) => stack.labels?.player ?? "")];
      return [rowOf(link, "", []), ...visitors.map(([visitor, stacks]) => rowOf(link, visitor, stacks))];
    });
  }

  /** Those of the rows that are asked for, in their order. @param {Row[]} rows */
  #shown(rows) {
    const { text, template } = this.stacks.view.state;
    const [finds, isAsked] = [finder(text), KINDS[this.#kind]];
    const asked = JSON.stringify([text, template, this.#kind, this.#by, this.#down, this.links.all.length]);
    const byKey = new Map(rows.map((row) => [row.key, row]));
    const kept = this.#order.flatMap((key) => byKey.get(key) ?? []);
    const wanted = rows.filter((row) => isAsked?.(row) && finds(searched(row)));
    const [by, sign] = [this.#by, this.#down ? -1 : 1];
    wanted.sort((one, other) => sign * compare(one[by], other[by]) || compare(one.name, other.name));
    const stays = asked === this.#asked && this.stacks.isRead();
    const shown = (stays ? [...new Set([...kept, ...wanted])] : wanted).slice(0, MOST);
    [this.#asked, this.#order] = [asked, shown.map((row) => row.key)];
    return { shown, more: wanted.length - MOST };
  }

  #draw() {
    const isOpen = this.isOpen;
    document.body.classList.toggle("players", isOpen);
    at("show-players").hidden = !this.links.all.length && !isOpen;
    at("show-players").setAttribute("aria-pressed", String(isOpen));
    if (!isOpen) return;
    const rows = this.#rows();
    const { shown, more } = this.#shown(rows);
    const chosen = shown.filter((row) => this.#chosen.has(row.key));
    const [none, some] = ["Nobody is like this.", `${numbers.format(more)} more: find some of them above.`];
    const make = "There are no links of players. Access makes them, and: stackd links create --players FILE";
    const words = !this.links.arrived ? "…" : !rows.length ? make : more > 0 ? some : none;
    show(
      at("roster-kinds"),
      Object.entries(KINDS).map(([kind, has]) => this.#chip(kind, rows.filter(has).length)),
    );
    show(at("roster-deeds"), this.#deeds(chosen.length ? chosen : shown, chosen.length ? "chosen" : "shown"));
    show(at("roster-head"), this.#head(shown, chosen));
    show(
      at("roster-body"),
      shown.map((row) => this.#row(row)),
    );
    say(at("roster-none"), words).hidden = shown.length > 0 && more <= 0;
  }

  /** @param {() => unknown} change */
  #change(change) {
    change();
    this.#draw();
  }

  /** @param {string} kind @param {number} count */
  #chip(kind, count) {
    const look = { class: ["chip", kind === "stuck" && count > 0 && "wrong"], "data-key": kind };
    const click = () => this.#change(() => (this.#kind = kind));
    const chip = button(` ${kind}`, click, { ...look, "aria-pressed": String(this.#kind === kind) });
    chip.prepend(h("b", {}, numbers.format(count)));
    return chip;
  }

  /** @param {Row[]} shown @param {Row[]} chosen */
  #head(shown, chosen) {
    const all = () => this.#change(() => (this.#chosen = new Set(chosen.length ? [] : shown.map((row) => row.key))));
    const box = checkbox("Choose all that are shown", chosen.length, shown.length, all);
    const heads = COLUMNS.map((key) => {
      const sort = () => this.#change(() => ([this.#down, this.#by] = [this.#by === key && !this.#down, key]));
      const sorted = this.#by === key && (this.#down ? "descending" : "ascending");
      return headCell(button(titled(key), sort, { class: "plain" }), { "aria-sort": sorted });
    });
    return h("tr", { role: "row" }, headCell(h("label", {}, box), { class: "c-box" }), heads, headCell("What to do"));
  }

  /** What can be done to all of these. @param {Row[]} rows @param {string} which */
  #deeds(rows, which) {
    const ids = () => [...new Set(rows.flatMap(({ stacks }) => stacks.map((stack) => stack.stack_id)))];
    const [count, links] = [ids().length, rows.filter((row) => !row.visitor).map((row) => row.link)];
    const about = `Of the ${rows.length} ${which}.`;
    const first = links.map((link) => link.expires_at).sort()[0];
    const ends = first ? ` Their links work until ${full(first)}, whatever is extended.` : "";
    /** @param {string} text @param {number} number @param {() => unknown} click */
    const deed = (text, number, click, kind = "") => {
      const look = { class: ["writes", kind], disabled: !number, "data-key": text };
      return button(`${text} ${numbers.format(number)}…`, click, look);
    };
    return [
      h("span", { class: "quiet", role: "status" }, `${numbers.format(rows.length)} ${which}`),
      deed("Extend", count, () => this.actions.many("extend", ids, about + ends)),
      deed("Restart", count, () => this.actions.many("restart", ids, about)),
      deed("Message", rows.length, () => this.#say(rows, which === "shown" && rows.length === this.#rows().length)),
      deed("New link", links.length, () => this.#renew(links)),
      deed("Revoke", links.length, () => this.#end(links, [])),
      deed("End lab", links.length, () => this.#end(links, ids()), "danger"),
      button("Whose flag…", () => this.#whoseFlag(), { class: "writes", "data-key": "flag" }),
      button("CSV", () => download("players.csv", [CELLS, ...rows.map(cellsOf)]), { "data-key": "csv" }),
    ];
  }

  /** @param {Row} row */
  #row(row) {
    const { key, name, link, stack, status, problem, address } = row;
    const [kind, on] = [stack ? kindOf(stack) : null, this.#chosen.has(key)];
    const [opened, started, seen] = [row.opened, row.started, row.seen].map(ago);
    const rest = stack ? coarse(left(row.left)) : "";
    const inputs = [name, opened, started, seen, rest, status, problem, address, kind, on, stack?.stack_id];
    return memo(key, inputs, () => {
      const click = () => this.#change(() => (this.#chosen = this.#chosen.symmetricDifference(new Set([key]))));
      const box = h("input", { type: "checkbox", "aria-label": `Choose ${name}`, click });
      box.checked = on;
      const open = () => this.stacks.view.open(stack?.stack_id ?? "");
      const about = { class: "called", title: row.labels };
      const page = { class: "button", target: "_blank", href: `/play#as=${key}`, "aria-label": `Page of ${name}` };
      const renew = { class: "writes", "aria-label": `New link for ${name}` };
      const title = stack?.status_message ?? "";
      const look = { class: "status", "data-status": stack?.status ?? "gone", "data-kind": kind };
      /** @type {Record<string, import("../shared/dom.js").Child>} */
      const contents = {
        name: stack ? button(name, open, { ...about, class: "plain called" }) : h("span", about, name),
        opened: opened || "never",
        started,
        status: h("span", look, status),
        problem: stack && kind && [reasonLink(stack, reasonOf(stack, kind)), " ", h("span", { title }, quiet(title))],
        address: address && button(address, () => copy(address, tell), { class: "plain mono", title: "Copy" }),
        left: rest,
        seen,
        "": [h("a", page, "Page"), " ", !row.visitor && button("New link…", () => this.#renew([link]), renew)],
      };
      const cells = Object.entries(contents).map(([head, content]) => cell(content, { "data-head": titled(head) }));
      const all = [cell(h("label", {}, box), { class: "c-box" }), ...cells];
      return h("tr", { role: "row", class: on && "selected", "data-link": key }, all);
    });
  }

  /** Say something on the pages of these players; `everybody`: of all whom the filter for a template leaves. @param {Row[]} rows @param {boolean} everybody */
  async #say(rows, everybody) {
    const { template } = this.stacks.view.state;
    const who = everybody ? `everybody${template && ` who may start ${template}`}` : `${rows.length} chosen`;
    const input = { name: "What they read on their pages for an hour", value: "" };
    const text = await confirm({ title: `A message to ${who}?`, text: "", verb: "Send", input });
    if (!text) return;
    const links = everybody ? null : rows.map(({ key }) => key);
    const body = { text, links, template: template || null };
    await ask("POST", "/messages", { body }).then(() => tell(`the message to ${who} is on their pages`), complain);
  }

  /** Replace links: show the new ones once, and revoke the old ones. @param {Link[]} links */
  async #renew(links) {
    const title = `New links for ${named(links)}?`;
    const text = "The old ones open nothing from then on. Stacks stay, and are on the pages of the new links.";
    if ((await confirm({ title, text, verb: "Make them", harmless: true })) === null) return;
    const made = [["name", "url", "code"]];
    const wrong = await forEach(links, async (link) => {
      const { link_id: id, name, player_name, labels, templates, stacks, each, total, expires_at: end } = link;
      const expires = `${Math.max(1, Math.ceil((Date.parse(end) - now()) / 1000))}s`;
      const more = { player_name, ...(templates.length && { templates }), ...(each && { each, total }) };
      const { url, code = "" } = await ask("POST", "/links", { body: { name, labels, stacks, expires, ...more } });
      made.push([name, url, code]);
      await ask("DELETE", `/links/${id}`);
    });
    this.links.refresh();
    const rows = made.slice(1).map(([name = "", url = "", code = ""]) => {
      const copied = () => copy(url, () => tell("copied the link"));
      const link = [h("b", {}, name), h("code", { class: "said" }, url), h("code", {}, code)];
      return h("li", { class: "row" }, link, button("Copy", copied, { "aria-label": `Copy the link of ${name}` }));
    });
    const box = dialog("The new links", { "data-keep": "yes" });
    const file = button("CSV", () => download("links.csv", made));
    const [list, error] = [h("ul", { class: "details" }, rows), h("p", { class: "error", role: "alert" }, wrong)];
    box.append(h("p", {}, "They are shown once."), list, error, h("div", { class: "buttons" }, file));
    box.showModal();
  }

  /** Revoke links, and delete these stacks. @param {Link[]} links @param {string[]} ids */
  async #end(links, ids) {
    const [title, verb] = ids.length ? ["End the lab?", "End it"] : [`Revoke the links of ${named(links)}?`, "Revoke"];
    const what = ids.length ? `${ids.length} stacks are deleted, with all that is in them. ` : "Stacks stay. ";
    const text = `${what}The links of ${named(links)} open nothing from then on.`;
    const type = links.length > 10 ? String(links.length) : null;
    const details = links.slice(0, 200).map((link) => link.name);
    if ((await confirm({ title, text, verb, type, details })) === null) return;
    const wrong = await forEach(links, (link) => ask("DELETE", `/links/${link.link_id}`));
    if (wrong) complain(wrong);
    else tell(`the links of ${named(links)} are revoked`);
    this.#chosen.clear();
    this.links.refresh();
    if (ids.length) await this.actions.send("delete", ids, "");
  }

  /** Ask for a value that somebody has handed in, and show for whom it was generated. */
  #whoseFlag() {
    const box = dialog("Whose flag is this?");
    const name = "The flag, as it was handed in";
    const field = h("input", { type: "text", autocomplete: "off", spellcheck: "false", "aria-label": name });
    const answer = h("div", { role: "status" });
    const find = h("button", { type: "submit", class: "primary" }, "Find");
    const form = h("form", {}, field, answer, h("div", { class: "buttons" }, find));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      try {
        /** @type {import("./stacks.js").Schemas["FoundValues"]} */
        const { found } = await ask("POST", "/values/find", { body: { value: field.value.trim() } });
        const lines = found.map(({ stack_id: id, labels, removed_at: removed, renewed }) => {
          const who = h("b", {}, this.links.nameOf({ labels, shared: false }));
          const ended = removed ? quiet(`, ended ${full(removed)}`) : renewed && quiet(", before it was renewed");
          return h("li", {}, who, ` ${pairs(labels).join(" ")} `, h("span", { class: "mono" }, id), ended);
        });
        show(answer, lines.length ? h("ul", { class: "details" }, lines) : "It is nobody's.");
      } catch (error) {
        say(answer, sentence(error));
      }
    });
    box.append(form);
    box.showModal();
    field.focus();
  }
}

/** @param {Link} link @param {string} visitor @param {Stack[]} stacks @returns {Row} */
function rowOf(link, visitor, stacks) {
  const weight = (/** @type {Stack} */ stack) => (kindOf(stack) ? Infinity : stack.created);
  const [stack] = stacks.toSorted((one, other) => weight(other) - weight(one));
  const kind = stack ? kindOf(stack) : null;
  const word = stack ? wordOf(stack, kind) : link.each && !visitor ? "open link" : "not started";
  const status = word + (stacks.length > 1 ? ` (1 of ${stacks.length})` : "");
  const problem = stack && kind ? [reasonOf(stack, kind), stack.status_message].filter(Boolean).join(": ") : "";
  const key = visitor ? `${link.link_id}/${visitor}` : link.link_id;
  const name = visitor ? `${link.name} ${shortName(visitor)}` : link.name;
  const { created: started = 0, address = "", expires: left = 0 } = stack ?? {};
  const [opened = 0, seen = 0] = [link.opened_at, link.seen_at].map((time) => Date.parse(time ?? "") || 0);
  const labels = pairs(link.labels).join(" ");
  return { key, name, labels, link, visitor, stacks, stack, status, problem, started, address, left, opened, seen };
}

/** What the filter looks into. @param {Row} row */
function searched({ name, labels, link, visitor, status, problem, address }) {
  const text = [name, link.player_name, labels, visitor, link.link_id, status, problem, address].join(" ");
  return { haystack: fold(text), tags: new Set(fold(labels).split(" ")) };
}

/** A row of the file. @param {Row} row */
function cellsOf(row) {
  const time = (/** @type {number} */ at) => (at && at < Infinity ? new Date(at).toISOString() : "");
  const cells = COLUMNS.map((key) => (TIMES.has(key) ? time(Number(row[key])) : String(row[key])));
  const { player_name: called = "", link_id: id } = row.link;
  return [...cells, called, row.labels, id, row.stacks.map((stack) => stack.stack_id).join(" ")];
}

/** Hand over a file for a spreadsheet; no cell of it is a formula. @param {string} name @param {string[][]} rows */
function download(name, rows) {
  const cell = (/** @type {string} */ text) => `"${text.replace(/^[=+@\t\r-]/, "'$&").replaceAll('"', '""')}"`;
  const text = `\ufeff${rows.map((row) => row.map(cell).join(",")).join("\r\n")}\r\n`;
  const href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  h("a", { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60_000);
}

/** Do it for each; returns what went wrong. @param {Link[]} links @param {(link: Link) => Promise<unknown>} work */
async function forEach(links, work) {
  /** @type {string[]} */
  const wrong = [];
  const all = links.map((link) => work(link).catch((error) => wrong.push(`${link.name}: ${sentence(error)}`)));
  await Promise.all(all); // a browser sends a few at a time
  return wrong.slice(0, 3).join("\n") + (wrong.length > 3 ? `\nand ${wrong.length - 3} more` : "");
}

/** The head of a column. @param {string} name */
const titled = (name) => name.charAt(0).toUpperCase() + name.slice(1);
/** @param {Link[]} links */
const named = (links) => (links.length === 1 ? links[0]?.name : `${links.length} players`);
/** @param {import("../shared/dom.js").Child} content @param {Record<string, string>} [look] */
const cell = (content, look) => h("td", { role: "cell", ...look }, content);
/** @param {import("../shared/dom.js").Child} content @param {Record<string, string | false>} [look] */
const headCell = (content, look) => h("th", { role: "columnheader", scope: "col", ...look }, content);
/** A length without the seconds beside minutes. @param {string} text */
const coarse = (text) => text.replace(/(\dm) \d+s$/, "$1");
/** How long ago; empty for never. @param {number} time */
const ago = (time) => (time && (now() - time < 60_000 ? "now" : `${coarse(length(now() - time))} ago`)) || "";
