// Markdown as elements: as much of it as the guides use. Text stays text: nothing in it can become markup.

import { button, copy, h, say } from "../shared/dom.js";

const FENCE = /^( *)```(\w*)/;
const HEADING = /^(#{1,4}) (.*)$/;
const ITEM = /^(?:[-*]|\d+\.) (.*)$/;
const INLINE = /(`[^`]+`|\*\*[^*]+\*\*|\*[^*]+\*|\[[^\]]+\]\([^)\s]+\))/;

/** @typedef {(target: string) => string | null} Resolve where a link leads; null leaves its text */

/**
 * The elements of a text.
 *
 * @param {string} text
 * @param {Resolve} resolve
 * @returns {HTMLElement[]}
 */
export function render(text, resolve) {
  const lines = text.split("\n");
  const made = [];
  while (lines.length) made.push(...block(lines, resolve));
  return made;
}

/**
 * What a heading is linked by, as on the pages that host repositories.
 *
 * @param {string} text
 */
export function anchor(text) {
  return text
    .toLowerCase()
    .replace(/[^\p{L}\p{N} _-]/gu, "")
    .replaceAll(" ", "-");
}

/**
 * Take one block off the lines.
 *
 * @param {string[]} lines
 * @param {Resolve} resolve
 * @returns {HTMLElement[]}
 */
function block(lines, resolve) {
  const first = lines[0] ?? "";
  if (!first.trim() || first.startsWith("<!--")) {
    lines.shift();
    return [];
  }
  if (FENCE.test(first)) return [code(lines)];
  const heading = HEADING.exec(first);
  if (heading) {
    lines.shift();
    const [, marks = "", text = ""] = heading;
    const level = /** @type {"h1" | "h2" | "h3" | "h4"} */ (`h${marks.length}`);
    return [h(level, { id: anchor(text) }, words(text, resolve))];
  }
  if (first.startsWith("|")) return [table(lines, resolve)];
  if (ITEM.test(first)) return [list(lines, resolve)];
  return [h("p", {}, words(paragraph(lines).join(" "), resolve))];
}

/** @param {string[]} lines */
function paragraph(lines) {
  const taken = [];
  while (lines.length) {
    const line = lines[0] ?? "";
    if (!line.trim() || (taken.length && (FENCE.test(line) || line.startsWith("|") || HEADING.test(line)))) break;
    taken.push(line.trim());
    lines.shift();
  }
  return taken;
}

/** @param {string[]} lines */
function code(lines) {
  const [, indent = ""] = FENCE.exec(lines.shift() ?? "") ?? [];
  const taken = [];
  for (let line = lines.shift(); line !== undefined && line.trim() !== "```"; line = lines.shift()) {
    taken.push(line.startsWith(indent) ? line.slice(indent.length) : line);
  }
  return example(taken.join("\n"), "the block");
}

/**
 * @param {string[]} lines
 * @param {Resolve} resolve
 */
function table(lines, resolve) {
  const rows = [];
  while (lines[0]?.startsWith("|")) rows.push(cells(lines.shift() ?? ""));
  const [heads = [], , ...bodies] = rows;
  const row = (/** @type {string[]} */ texts) =>
    h(
      "tr",
      {},
      texts.map((text) => h("td", {}, words(text, resolve))),
    );
  const head = heads.map((text) => h("th", { scope: "col" }, words(text, resolve)));
  return h(
    "table",
    {},
    heads.some(Boolean) ? h("thead", {}, h("tr", {}, head)) : null,
    h("tbody", {}, bodies.map(row)),
  );
}

/** @param {string} line */
function cells(line) {
  return line
    .replace(/^\||\|\s*$/g, "")
    .split(/(?<!\\)\|/)
    .map((cell) => cell.trim().replaceAll("\\|", "|"));
}

/**
 * A list; what is indented below an item belongs to it.
 *
 * @param {string[]} lines
 * @param {Resolve} resolve
 */
function list(lines, resolve) {
  const numbered = /^\d/.test(lines[0] ?? "");
  const items = [];
  while (ITEM.test(lines[0] ?? "")) {
    const [, first = ""] = ITEM.exec(lines.shift() ?? "") ?? [];
    const inner = [first];
    while (
      lines.length &&
      (/^ {2,}\S/.test(lines[0] ?? "") || (!lines[0]?.trim() && /^ {2,}\S/.test(lines[1] ?? "")))
    ) {
      inner.push(lines.shift() ?? "");
    }
    items.push(h("li", {}, render(unindented(inner), resolve)));
  }
  return h(numbered ? "ol" : "ul", { class: "prose" }, items);
}

/** @param {string[]} lines */
function unindented(lines) {
  const [first = "", ...rest] = lines;
  const indents = rest.filter((line) => line.trim()).map((line) => line.length - line.trimStart().length);
  const least = Math.min(...indents, 3);
  return [first, ...rest.map((line) => line.slice(least))].join("\n");
}

/**
 * One line of text with code, emphasis and links.
 *
 * @param {string} text
 * @param {Resolve} resolve
 * @returns {(Node | string)[]}
 */
function words(text, resolve) {
  return text.split(INLINE).map((part) => {
    if (part.length < 3) return part;
    if (part.startsWith("`")) return h("code", {}, part.slice(1, -1));
    if (part.startsWith("**")) return h("strong", {}, words(part.slice(2, -2), resolve));
    if (part.startsWith("*") && part.endsWith("*")) return h("em", {}, part.slice(1, -1));
    const link = /^\[([^\]]+)\]\(([^)]+)\)$/.exec(part);
    if (!link) return part;
    const href = resolve(link[2] ?? "");
    return href ? h("a", { href }, words(link[1] ?? "", resolve)) : h("span", {}, words(link[1] ?? "", resolve));
  });
}

/**
 * A text to be copied.
 *
 * @param {string} text
 * @param {string} name
 */
export function example(text, name) {
  const said = h("span", { class: "unseen", role: "status" });
  const copied = () => {
    say(made, "Copied");
    say(said, `${name} is copied`);
    setTimeout(() => say(made, "Copy"), 1500);
  };
  const made = button("Copy", () => copy(text, copied), { class: "plain", "aria-label": `Copy ${name}` });
  return h("div", { class: "example" }, made, said, h("pre", { tabindex: "0" }, text));
}
