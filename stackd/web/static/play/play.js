// The players' page of a link: exchanges the link's token for a cookie, and shows a box for each template that it offers.

/** @import { Options, State } from "./box.js" */

let token = location.hash.slice(1);
if (token) history.replaceState(null, "", location.pathname); // before anything else: the token is a key
addEventListener("hashchange", () => location.reload()); // another link was opened in this tab

const { Box, arrange, h, load, say } = await import("./box.js");
const { follow, request, solve } = await import("./feed.js");
const FOLDER = "/static/play/";
const texts = await load(FOLDER, ...navigator.languages);
document.documentElement.lang = texts.language;
const [name, count, notice, list, end] =
  /** @type {[HTMLElement, HTMLElement, HTMLElement, HTMLElement, HTMLElement]} */ (
    ["name", "used", "notice", "cards", "until"].map((id) => document.getElementById(id))
  );
/** @param {string} path @param {string} [method] @param {object} [body] */
const call = (path, method, body) =>
  request((url, options) => fetch(url, options), `/play/${path}`, method, body, { "X-Play": "1" });

/** Exchange the token; an open link wants a proof of work for it. */
async function enter() {
  const { work } = await call("session", "POST", { token });
  if (work) {
    const progress = (/** @type {number} */ fraction) => say(notice, texts.percent(fraction));
    const answer = await solve(FOLDER, work, progress);
    await call("session", "POST", { token, work: { challenge: work.challenge, answer } });
  }
  token = "";
}

/** @type {Promise<void> | undefined} */
let entering;
async function read() {
  entering ??= token ? enter().finally(() => (entering = undefined)) : undefined;
  await entering;
  return call("stacks");
}

/** What a line of Markdown has in it. @type {[RegExp, (text: string, href: string) => HTMLElement][]} */
const MARKS = [
  [/^`([^`]+)`$/, (text) => h("code", {}, text)],
  [/^\*\*([^*]+)\*\*$/, (text) => h("strong", {}, text)],
  [/^\*([^*]+)\*$/, (text) => h("em", {}, text)],
  [/^\[([^\]]+)\]\((https?:\/\/[^\s)]+)\)$/, (text, href) => h("a", { href, target: "_blank", rel: "noopener" }, text)],
];

/** @param {string} text */
function inline(text) {
  return text.split(/(`[^`]+`|\*{1,2}[^*]+\*{1,2}|\[[^\]]+\]\([^\s)]+\))/).map((part) => {
    for (const [pattern, make] of MARKS) {
      const found = part.match(pattern);
      if (found) return make(found[1] ?? "", found[2] ?? "");
    }
    return part;
  });
}

/** Paragraphs, lists, headings and code of a description; the rest of Markdown stays as it is written. @param {string} text */
function block(text) {
  if (text.startsWith("```")) return h("pre", {}, text.replace(/^```.*\n?|```$/g, ""));
  const lines = text.trim().split("\n");
  if (!lines.every((line) => /^[-*] /.test(line)))
    return h("p", {}, ...inline(text.trim().replace(/^#+ (.*)/, "**$1**")));
  return h("ul", {}, ...lines.map((line) => h("li", {}, ...inline(line.slice(2)))));
}

const { tell, stop } = follow(read, show, (refusal) => {
  say(notice, texts.why(refusal));
  if (!/^link_|unauthenticated/.test(refusal.code)) return;
  stop(); // nothing changes until a link is opened
  say(count, "");
  say(end, "");
  arranged([]);
});
/** @type {Options["actions"]} */
const actions = {
  start: ({ template }, replace) => call("stacks", "POST", { template, ...(replace && { replace }) }),
  extend: ({ name }) => call(`stacks/${name}/extend`, "POST"),
  restart: ({ name }) => call(`stacks/${name}/restart`, "POST"),
  stop: ({ name }) => call(`stacks/${name}`, "DELETE"),
};
const make = (/** @type {State} */ { category, description }) => {
  const parts = (description ?? "").split(/^(```[\s\S]*?^```)$|\n\s*\n/m).filter((each) => each?.trim());
  const card = h("article", {}, category && h("p", { class: "category" }, category), ...parts.map(block));
  return new Box(card, { texts, actions, look: tell, level: 2 });
};
const arranged = arrange(list, (state) => state.template || state.name, make);

/** @param {{ link: { name: string, seconds_left: number, stacks: number }, stacks: State[] }} data */
function show({ link, stacks }) {
  const used = stacks.filter((each) => each.name && each.status !== "shared").length;
  const until = new Date(Date.now() + link.seconds_left * 1000);
  const time = until.toLocaleString(navigator.language, { dateStyle: "medium", timeStyle: "short" });
  document.title = link.name || "stackd";
  say(name, document.title);
  say(count, texts("used", { used, limit: link.stacks }));
  say(notice, stacks.length ? "" : texts("offers"));
  say(end, texts("until", { time }));
  return arranged(stacks);
}
