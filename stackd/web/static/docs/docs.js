// Reads /openapi.json and lays it out: routes by group, with parameters, bodies, answers and a curl line each.

/** @import { Child } from "../shared/dom.js" */

import { at, button, copy, found, h, inline, say } from "../shared/dom.js";

/**
 * The OpenAPI document, as far as it is read here; its depths are followed as they come.
 *
 * @typedef {{ name: string, in: string, required?: boolean, schema: any, description: string, example?: unknown }} Parameter
 * @typedef {{ schema?: any, examples?: Record<string, { value: unknown }> }} Content
 * @typedef {{ path: string, method: string, operationId: string, summary: string, description?: string, tags: string[],
 *   security?: unknown[], parameters?: Parameter[], requestBody?: { content?: Record<string, Content> },
 *   responses: Record<string, { description: string, content?: Record<string, Content> }> }} Operation
 */

const JSON_MEDIA = "application/json";
/** @type {any} */
let spec;

/** What a reference stands for. @param {any} value */
function resolve(value) {
  let node = value;
  while (node?.$ref) {
    const path = node.$ref.slice(2).split("/");
    node = path.reduce((/** @type {any} */ each, /** @type {string} */ part) => each[part], spec);
  }
  return node;
}

/** A schema's type in a few words. @param {any} schema @returns {string} */
function typeOf(schema) {
  const name = schema.$ref?.split("/").at(-1);
  const node = resolve(schema);
  const among = node.oneOf ?? node.anyOf;
  if (among && !node.properties) return among.map(typeOf).join(" or ");
  if (node.const !== undefined) return JSON.stringify(node.const);
  if (node.enum) return node.enum.map((/** @type {any} */ each) => JSON.stringify(each)).join(" or ");
  const types = [node.type ?? "anything"].flat();
  if (types.includes("array")) return `list of ${typeOf(node.items ?? {})}`;
  if (types.includes("object")) return name && node.properties ? name : "object";
  const format = node.format && !node.format.startsWith("stackd-") ? ` (${node.format})` : "";
  const between = node.minimum !== undefined && node.maximum !== undefined && `${node.minimum}–${node.maximum}`;
  const longest = node.maxLength !== undefined && `at most ${node.maxLength} characters`;
  return [types.join(" or ") + format, between, longest].filter(Boolean).join(", ");
}

/** The fields of an object, lists looked into, one level deep. @param {any} schema */
function properties(schema) {
  let node = resolve(schema);
  if (node.oneOf && !node.properties) node = resolve(node.oneOf[0]);
  if (node.type === "array") node = resolve(node.items);
  return Object.entries(node.properties ?? {}).map(([name, each]) => ({
    name,
    type: typeOf(each) + ((node.required ?? []).includes(name) ? "" : ", optional"),
    about: resolve(each).description ?? "",
  }));
}

/** A description as paragraphs and lists. @param {string} text */
function prose(text) {
  const blocks = text.split(/\n{2,}/).map((part) => {
    const lines = part.split("\n");
    if (!lines.every((line) => line.startsWith("- "))) return h("p", { class: "prose" }, inline(lines.join(" ")));
    const items = lines.map((line) => h("li", {}, inline(line.slice(2))));
    return h("ul", { class: "prose" }, items);
  });
  return h("div", {}, blocks);
}

/** One curl command for an operation, with its own example, fit to be pasted into a shell. @param {Operation} operation */
function curl(operation) {
  const words = ["curl", "-s"];
  if (operation.responses["200"]?.content?.["text/event-stream"]) words.push("-N");
  if (operation.method !== "get") words.push("-X", operation.method.toUpperCase());
  if (operation.security?.length !== 0) words.push("-H", '"X-API-KEY: $STACKD_API_KEY"');
  const body = Object.values(operation.requestBody?.content?.[JSON_MEDIA]?.examples ?? {})[0]?.value;
  if (body !== undefined) words.push("-d", quoted(JSON.stringify(body)));
  const query = [];
  let path = operation.path;
  for (const { name, in: where, example } of operation.parameters ?? []) {
    if (where === "path") path = path.replace(`{${name}}`, String(example ?? "…"));
    else if (where === "query" && example !== undefined)
      query.push(...[example].flat().map((value) => `${name}=${value}`));
  }
  return [...words, quoted(location.origin + path + (query.length ? `?${query.join("&")}` : ""))].join(" ");
}

/** @param {string} text */
const quoted = (text) => (/^[\w:/.=,-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

/** @param {Content | undefined} content */
function example(content) {
  const first = Object.values(content?.examples ?? {})[0]?.value;
  if (first === undefined) return null;
  return copyable(typeof first === "string" ? first : JSON.stringify(first, null, 2), "the example");
}

/** A text to be copied. @param {string} text @param {string} name */
function copyable(text, name) {
  const said = h("span", { class: "unseen", role: "status" });
  const copied = () => {
    say(made, "Copied");
    say(said, `${name} is copied`);
    setTimeout(() => say(made, "Copy"), 1500);
  };
  const made = button("Copy", () => copy(text, copied), { class: "plain", "aria-label": `Copy ${name}` });
  return h("div", { class: "example" }, made, said, h("pre", { tabindex: "0" }, text));
}

/** @param {string[]} heads @param {Child[][]} rows */
function table(heads, rows) {
  const head = heads.map((each) => h("th", { scope: "col" }, each));
  const body = rows.map((cells) => {
    const row = cells.map((cell) => h("td", {}, cell));
    return h("tr", {}, row);
  });
  return h("table", {}, h("thead", {}, h("tr", {}, head)), h("tbody", {}, body));
}

/** @param {string} type @param {string} about */
const described = (type, about) => [h("span", { class: "quiet" }, type), ...(about ? [". ", ...inline(about)] : [])];

/** @param {any} schema @param {string} summary */
function fields(schema, summary) {
  const rows = properties(schema).map(({ name, type, about }) => [h("code", {}, name), described(type, about)]);
  return rows.length ? h("details", {}, h("summary", {}, summary), table(["field", "what"], rows)) : null;
}

/** @param {Operation} operation */
function parameters({ parameters: all }) {
  const rows = (all ?? []).map(({ name, in: where, required, schema, description }) => [
    h("code", {}, name),
    `${where}${required ? ", required" : ""}`,
    described(typeOf(schema), description),
  ]);
  return rows.length ? [h("h4", {}, "Parameters"), table(["name", "in", "what"], rows)] : [];
}

/** @param {Operation} operation */
function body({ requestBody }) {
  const content = requestBody?.content?.[JSON_MEDIA];
  return content ? [h("h4", {}, "Body"), example(content), fields(content.schema, "Fields of the body")] : [];
}

/** @param {Operation} operation */
function answers({ responses }) {
  const all = Object.entries(responses).map(([status, each]) => ({ status, answer: resolve(each) }));
  const rows = all.map(({ status, answer }) => [h("code", {}, status), inline(answer.description)]);
  const bodies = all.flatMap(({ status, answer }) => {
    const [media, content] = Object.entries(answer.content ?? {})[0] ?? [];
    if (Number(status) >= 400 || !content) return [];
    const shown = fields(content.schema ?? {}, "Fields of the answer");
    return shown ? [h("h4", {}, `${status} · ${media}`), shown] : [];
  });
  return [h("h4", {}, "Answers"), table(["status", "when"], rows), ...bodies];
}

/** @param {Operation} operation */
function article(operation) {
  const { operationId: id, method, path, summary, description, security, requestBody } = operation;
  const schema = requestBody?.content?.[JSON_MEDIA]?.schema;
  const names = [...(operation.parameters ?? []), ...(schema ? properties(schema) : [])].map(({ name }) => name);
  return h(
    "article",
    {
      id,
      class: "box",
      "aria-labelledby": `${id}-name`,
      "data-find": [method, path, summary, ...names].join(" ").toLowerCase(),
    },
    h(
      "h3",
      { id: `${id}-name` },
      h("span", { class: ["method", method] }, method.toUpperCase()),
      h("a", { href: `#${id}` }, h("code", {}, path)),
      h("span", {}, summary),
    ),
    description && prose(description),
    security?.length === 0 && h("p", { class: "quiet" }, "Needs no key."),
    parameters(operation),
    body(operation),
    h("h4", {}, "With curl"),
    copyable(curl(operation), "the command"),
    answers(operation),
  );
}

function draw() {
  say(at("version"), `version ${spec.info.version}`);
  /** @type {Operation[]} */
  const all = Object.entries(spec.paths).flatMap(([path, item]) =>
    Object.entries(item).map(([method, operation]) => ({ path, method, ...operation })),
  );
  const key = `curl -H "X-API-KEY: $STACKD_API_KEY" ${location.origin}/healthz`;
  const about =
    "Every route but those for browsers needs a key, in the `X-API-KEY` header, as `Authorization: Bearer`, or in the " +
    "`api_key` query parameter. Make a key with `stackd key new`.";
  const first = h("section", {}, h("h2", {}, "The API"), prose(spec.info.description), prose(about));
  first.append(copyable(key, "the command"));
  const sections = [first];
  for (const { name, description } of spec.tags) {
    const mine = all.filter((each) => each.tags[0] === name);
    const links = mine.map(({ operationId: id, summary, method, path }) =>
      h("a", { href: `#${id}`, title: `${method.toUpperCase()} ${path}` }, summary),
    );
    at("contents").append(h("section", {}, h("h2", {}, name), links));
    sections.push(h("section", {}, h("h2", {}, name), h("p", { class: "quiet" }, description), mine.map(article)));
  }
  at("content").replaceChildren(...sections);
  const menu = found("menu", HTMLDetailsElement);
  const wide = matchMedia("(min-width: 861px)"); // a narrow window has the list behind a button
  const fold = () => {
    menu.open = wide.matches;
  };
  fold();
  wide.addEventListener("change", fold);
  at("contents").addEventListener("click", ({ target }) => target instanceof HTMLAnchorElement && fold());
  follow();
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
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
      const first = articles.find((each) => seen.has(each));
      for (const link of at("contents").querySelectorAll("a")) {
        if (first && link.hash === `#${first.id}`) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
      }
    },
    { rootMargin: "-76px 0px -40% 0px" },
  );
  for (const each of articles) observer.observe(each);
}

/** Leave what has all of the words, on the page and in the list. @param {string} text */
function find(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const each of document.querySelectorAll("article")) {
    each.hidden = !words.every((word) => each.dataset.find?.includes(word));
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

const field = found("find", HTMLInputElement);
field.addEventListener("input", () => find(field.value));
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && event.target instanceof Element && !event.target.closest("input, textarea")) {
    event.preventDefault();
    field.focus();
  }
});

try {
  const answer = await fetch("/openapi.json");
  if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
  spec = await answer.json();
  draw();
} catch (error) {
  say(at("state"), `The description cannot be read: ${error instanceof Error ? error.message : error}`);
}
