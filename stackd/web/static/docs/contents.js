// The list of the routes: where one is in it, and what a search leaves of it and of the page.

/** @import { Operation } from "./docs.js" */

import { at, fill, found, h, say } from "../shared/dom.js";

/** @typedef {{ name: string, description: string }} Tag */
/** @typedef {{ tag: Tag, items: Operation[] }} Section */

/**
 * Draw the list.
 *
 * @param {Section[]} sections
 */
export function drawContents(sections) {
  fill(
    at("contents"),
    sections.map(({ tag, items }) =>
      h(
        "section",
        {},
        h("h2", {}, tag.name),
        items.map((each) =>
          h("a", { href: `#${each.operationId}`, title: `${each.method.toUpperCase()} ${each.path}` }, each.summary),
        ),
      ),
    ),
  );
  const menu = found("menu", HTMLDetailsElement);
  const wide = matchMedia("(min-width: 861px)"); // a narrow window has the list behind a button
  const fold = () => {
    menu.open = wide.matches;
  };
  fold();
  wide.addEventListener("change", fold);
  at("contents").addEventListener("click", ({ target }) => target instanceof HTMLAnchorElement && fold());
  follow();
}

/** The route that is read is marked in the list. */
function follow() {
  /** @type {Set<Element>} */
  const seen = new Set();
  const articles = [...document.querySelectorAll("article")];
  const observer = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting) seen.add(target);
        else seen.delete(target);
      }
      const first = articles.find((article) => seen.has(article));
      for (const link of at("contents").querySelectorAll("a")) {
        if (first && link.hash === `#${first.id}`) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
      }
    },
    { rootMargin: "-76px 0px -40% 0px" },
  );
  for (const article of articles) observer.observe(article);
}

/**
 * Leave what has all of the words, on the page and in the list.
 *
 * @param {string} text
 */
export function find(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const each of document.querySelectorAll("article")) {
    const about = each.dataset.find?.toLowerCase() ?? "";
    each.hidden = !words.every((word) => about.includes(word));
    if (!each.hidden) count += 1;
    const link = at("contents").querySelector(`[href="#${CSS.escape(each.id)}"]`);
    if (link instanceof HTMLElement) link.hidden = each.hidden;
  }
  for (const section of document.querySelectorAll("#contents section, #content > section")) {
    const parts = [...section.querySelectorAll("article, #contents a")];
    if (section instanceof HTMLElement)
      section.hidden = words.length > 0 && parts.every((part) => part.matches("[hidden]"));
  }
  say(at("found"), words.length ? `${count} ${count === 1 ? "route" : "routes"}` : "");
}
