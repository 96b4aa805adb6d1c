// Reads /openapi.json and lays it out: routes by group, with parameters, bodies, answers and a curl line each.

/** @import { Child } from "../shared/dom.js" */

import { at, button, copy, fill, found, h, inline, say } from "../shared/dom.js";
import { drawContents, find } from "./contents.js";
import { curl } from "./curl.js";
import { properties, prose, typeOf } from "./schema.js";

/**
 * The OpenAPI document, as far as it is read here; its depths are followed as they come.
 *
 * @typedef {{ name: string, in: string, required?: boolean, schema: any, description: string, example?: unknown }} Parameter
 * @typedef {{ schema?: any, examples?: Record<string, { value: unknown }> }} Content
 * @typedef {object} Operation
 * @property {string} path
 * @property {string} method
 * @property {string} operationId
 * @property {string} summary
 * @property {string} [description]
 * @property {string[]} tags
 * @property {unknown[]} [security]
 * @property {Parameter[]} [parameters]
 * @property {{ content?: Record<string, Content> }} [requestBody]
 * @property {Record<string, { description: string, content?: Record<string, Content> }>} responses
 */

/** @type {any} */
let spec;

/** @param {any} value */
function resolve(value) {
  let found = value;
  while (found?.$ref) {
    found = found.$ref
      .slice(2)
      .split("/")
      .reduce((/** @type {any} */ node, /** @type {string} */ part) => node[part], spec);
  }
  return found;
}

/** @returns {Operation[]} */
function operations() {
  return Object.entries(spec.paths).flatMap(([path, item]) =>
    Object.entries(item).map(([method, operation]) => ({ path, method, ...operation })),
  );
}

/** @param {Content | undefined} content */
function example(content) {
  const first = Object.values(content?.examples ?? {})[0]?.value;
  if (first === undefined) return null;
  return copyable(typeof first === "string" ? first : JSON.stringify(first, null, 2), "the example");
}

/**
 * A text to be copied.
 *
 * @param {string} text
 * @param {string} name
 */
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

/**
 * @param {string[]} heads
 * @param {Child[][]} rows
 */
function table(heads, rows) {
  return h(
    "table",
    {},
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        heads.map((head) => h("th", { scope: "col" }, head)),
      ),
    ),
    h(
      "tbody",
      {},
      rows.map((cells) =>
        h(
          "tr",
          {},
          cells.map((cell) => h("td", {}, cell)),
        ),
      ),
    ),
  );
}

/** @param {Operation} operation */
function parameters(operation) {
  if (!operation.parameters?.length) return [];
  const rows = operation.parameters.map((parameter) => [
    h("code", {}, parameter.name),
    `${parameter.in}${parameter.required ? ", required" : ""}`,
    [h("span", { class: "type" }, typeOf(parameter.schema, resolve)), ". ", ...inline(parameter.description)],
  ]);
  return [h("h4", {}, "Parameters"), table(["name", "in", "what"], rows)];
}

/**
 * @param {any} schema
 * @param {string} summary
 */
function fields(schema, summary) {
  const rows = properties(schema, resolve);
  if (!rows.length) return null;
  const cells = rows.map((row) => [
    h("code", {}, row.name),
    [
      h("span", { class: "type" }, `${row.type}${row.required ? "" : ", optional"}`),
      ...(row.about ? [". ", ...inline(row.about)] : []),
    ],
  ]);
  return h("details", {}, h("summary", {}, summary), table(["field", "what"], cells));
}

/** @param {Operation} operation */
function body(operation) {
  const content = operation.requestBody?.content?.["application/json"];
  if (!content) return [];
  return [h("h4", {}, "Body"), example(content), fields(content.schema, "Fields of the body")];
}

/** @param {Operation} operation */
function answers(operation) {
  const rows = [];
  const examples = [];
  for (const [status, given] of Object.entries(operation.responses)) {
    const answer = resolve(given);
    rows.push([h("code", {}, status), inline(answer.description)]);
    const [media, content] = Object.entries(answer.content ?? {})[0] ?? [];
    if (Number(status) < 400 && content) {
      const shown = [example(content), fields(content.schema ?? {}, "Fields of the answer")].filter(Boolean);
      if (shown.length) examples.push(h("h4", {}, `${status} · ${media}`), ...shown);
    }
  }
  return [h("h4", {}, "Answers"), table(["status", "when"], rows), ...examples];
}

/**
 * What a search finds an operation by: its own words, and the names of what it takes.
 *
 * @param {Operation} operation
 */
function sought(operation) {
  const schema = operation.requestBody?.content?.["application/json"]?.schema;
  const names = [...(operation.parameters ?? []), ...(schema ? properties(schema, resolve) : [])].map(
    ({ name }) => name,
  );
  return [operation.method, operation.path, operation.summary, ...names].join(" ");
}

/** @param {Operation} operation */
function article(operation) {
  const id = operation.operationId;
  return h(
    "article",
    { id, "aria-labelledby": `${id}-name`, "data-find": sought(operation) },
    h(
      "h3",
      { id: `${id}-name` },
      h("span", { class: ["method", operation.method] }, operation.method.toUpperCase()),
      h("a", { href: `#${id}` }, h("code", {}, operation.path)),
      h("span", {}, operation.summary),
    ),
    operation.description ? prose(operation.description) : null,
    operation.security?.length === 0 ? h("p", { class: "quiet" }, "Needs no key.") : null,
    ...parameters(operation),
    ...body(operation),
    h("h4", {}, "With curl"),
    copyable(curl(operation, location.origin), "the command"),
    ...answers(operation),
  );
}

function draw() {
  say(at("version"), `version ${spec.info.version}`);
  const all = operations();
  /** @type {{ name: string, description: string }[]} */
  const tags = spec.tags;
  const sections = tags.map((tag) => ({ tag, items: all.filter((each) => each.tags[0] === tag.name) }));
  fill(
    at("content"),
    h("section", {}, h("h2", {}, "The API"), prose(spec.info.description), authentication()),
    sections.map(({ tag, items }) =>
      h("section", {}, h("h2", {}, tag.name), h("p", { class: "quiet" }, tag.description), items.map(article)),
    ),
  );
  drawContents(sections);
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

function authentication() {
  const key = `curl -H "X-API-KEY: $STACKD_API_KEY" ${location.origin}/healthz`;
  const text =
    "Every route but those for browsers needs a key, in the `X-API-KEY` header, as `Authorization: Bearer`, or in the " +
    "`api_key` query parameter. " +
    "Make a key with `stackd key new`.";
  return h("div", {}, prose(text), copyable(key, "the command"));
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
