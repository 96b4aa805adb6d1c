// One of the guides: its Markdown, laid out, with a list of its sections.

import { at, fill, found, h, say } from "../shared/dom.js";
import { render } from "./markdown.js";

const GUIDES = ["integrate", "api-guide", "troubleshooting"];
const WIDE = matchMedia("(min-width: 861px)");
const name = location.pathname.split("/").at(-1) ?? "";

/**
 * A link of a guide: to another guide, within the page, or to what is only in the repository.
 *
 * @param {string} target
 */
function resolve(target) {
  if (target.startsWith("#") || target.startsWith("https://")) return target;
  const [, page = "", hash = ""] = /^([\w-]+)\.md(#.*)?$/.exec(target) ?? [];
  return GUIDES.includes(page) ? `/docs/${page}${hash}` : null;
}

/** @param {string} text */
function draw(text) {
  const made = render(text, resolve);
  fill(at("content"), h("section", { class: "guide" }, made));
  const heads = made.filter((one) => one.tagName === "H2");
  const links = heads.map((head) => h("a", { href: `#${head.id}` }, head.textContent));
  fill(at("sections"), h("section", {}, h("h2", {}, "On this page"), links));
  document.title = `${made.find((one) => one.tagName === "H1")?.textContent ?? name} · stackd`;
  document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
}

for (const link of document.querySelectorAll("#guides a")) {
  if (link.getAttribute("href") === location.pathname) link.setAttribute("aria-current", "true");
}
const menu = found("menu", HTMLDetailsElement);
const fold = () => {
  menu.open = WIDE.matches;
};
fold();
WIDE.addEventListener("change", fold);
menu.addEventListener("click", (event) => {
  if (event.target instanceof HTMLAnchorElement && !WIDE.matches) menu.open = false;
});

try {
  const answer = await fetch(`/static/guide/${name}.md`);
  if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
  draw(await answer.text());
} catch (error) {
  say(at("state"), `The page cannot be read: ${error instanceof Error ? error.message : error}`);
}
