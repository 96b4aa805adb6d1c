// The players' page of a link: exchanges the link's token for a cookie, and shows a box for each template that it offers.

/**
 * @import { Options, State } from "./box.js"
 * @typedef {string | { tag: keyof HTMLElementTagNameMap, href?: string, children: Element[] }} Element
 */

let token = location.hash.slice(1).replaceAll(/%..|\s/g, "");
const watched = token.startsWith("as=") ? token.slice(3) : ""; // whose page an organiser reads
if (token && !watched) history.replaceState(null, "", location.pathname); // before anything else: the token is a key
addEventListener("hashchange", () => location.reload()); // another link was opened in this tab

const { Box, announce, arrange, h, load, say } = await import("./box.js");
const { follow, request } = await import("./feed.js");
const texts = await load("/static/play/", ...navigator.languages);
document.documentElement.lang = texts.language;
const part = (/** @type {string} */ id) => /** @type {HTMLElement} */ (document.getElementById(id));
const notice = part("notice");
for (const id of ["another", "label", "enter"]) part(id).textContent = texts(id === "label" ? "code" : id);
part("codes").hidden = !!watched;
part("theme").dataset.words = `${texts("light")}|${texts("dark")}`;
dispatchEvent(new Event("languagechange")); // the button reads its words
// The link that this tab shows, so that it does not become another student when a second tab opens another link.
let shown = (!token && sessionStorage.getItem("link")) || "1";
/** @param {string} path @param {string} [method] @param {object} [body] @param {Record<string, string>} [headers] */
const call = (path, method, body, headers) =>
  request((url, options) => fetch(url, options), `/play/${path}`, method, body, { "X-Play": shown, ...headers });

async function enter() {
  await call("session", "POST", { token });
  token = "";
}

/** @type {Promise<void> | undefined} */
let entering;
async function read() {
  if (watched) return watch();
  entering ??= token ? enter().finally(() => (entering = undefined)) : undefined;
  await entering;
  return call("stacks");
}

/** The page of a link, with the key of a dashboard that is open in this browser. */
async function watch() {
  const [{ ask }, { key }] = await Promise.all([import("../dashboard/api.js"), import("../dashboard/session.js")]);
  await (key.get() || key.ask());
  return ask("GET", `/play/links/${watched}`).catch((error) => Promise.reject(error.body ?? { code: "unreachable" }));
}
part("codes").onsubmit = async (event) => {
  event.preventDefault();
  const { value } = /** @type {HTMLInputElement} */ (part("code"));
  const refusal = await call("session", "POST", { code: value }).catch((refused) => refused);
  if (refusal.code) return say(part("wrong"), texts.why(refusal));
  sessionStorage.removeItem("link");
  location.reload();
};

/** @param {State} state @param {string} [replace] */
function start({ template }, replace) {
  const key = { "Idempotency-Key": crypto.getRandomValues(new Uint32Array(4)).join("-") };
  const once = () => call("stacks", "POST", { template, ...(replace && { replace }) }, key);
  return once().catch((refusal) => (refusal.code === "unreachable" ? once() : Promise.reject(refusal)));
}

/** An element of a description, whose Markdown the server has read. @param {Element} element @returns {Node | string} */
function made(element) {
  if (typeof element === "string") return element;
  const link = element.href && { href: element.href, target: "_blank", rel: "noopener" };
  return h(element.tag, { ...link }, ...element.children.map(made));
}

/** @param {any} refusal */
function lose(refusal) {
  say(notice, texts.why(refusal, true));
  if (!/^link_|unauthenticated/.test(refusal.code)) return;
  stop(); // nothing changes until a link is opened
  for (const id of ["used", "until"]) say(part(id), "");
  part("codes").setAttribute("open", "");
  announce(part("messages"));
  arranged([]);
}
const { tell, stop } = follow(read, show, lose);
/** @type {Options["actions"]} */
const actions = watched
  ? {}
  : {
      start,
      extend: ({ name }) => call(`stacks/${name}/extend`, "POST"),
      restart: ({ name }) => call(`stacks/${name}/restart`, "POST"),
      stop: ({ name }) => call(`stacks/${name}`, "DELETE"),
    };
const arranged = arrange(part("cards"), ({ category, about = [] }) => {
  const card = h("article", {}, category && h("p", { className: "quiet" }, category), ...about.map(made));
  return new Box(card, { texts, actions, look: tell });
});

/** @param {{ link: { id: string, name: string, seconds_left: number, stacks: number, used: number }, stacks: State[], messages: any }} data */
function show({ link, stacks, messages }) {
  shown = link.id;
  if (!watched) sessionStorage.setItem("link", shown);
  document.title = link.name || "stackd";
  say(part("name"), document.title);
  say(part("used"), texts("used", { used: link.used, limit: link.stacks }));
  say(notice, watched ? texts("watched") : stacks.length ? "" : texts("offers"));
  say(part("until"), texts("until", { time: texts.when(link.seconds_left) }));
  announce(part("messages"), messages);
  return arranged(stacks);
}
