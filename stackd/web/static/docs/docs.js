// Reads /openapi.json and lays it out: routes by group, with parameters, bodies, answers and a curl line each.

import { at, copy, fill, h, inline, say } from "../shared/dom.js";
import { curl } from "./curl.js";
import { prose, properties, typeOf } from "./schema.js";

let spec;

function resolve(value) {
  let found = value;
  while (found?.$ref) {
    found = found.$ref.slice(2).split("/").reduce((node, part) => node[part], spec);
  }
  return found;
}

function operations() {
  return Object.entries(spec.paths).flatMap(([path, item]) =>
    Object.entries(item).map(([method, operation]) => ({ path, method, ...operation })),
  );
}

function block(text, name) {
  const said = h("span", { class: "unseen", role: "status" });
  const button = h("button", { type: "button", class: "plain", "aria-label": `Copy ${name}` }, "Copy");
  button.addEventListener("click", () =>
    copy(text, () => {
      say(button, "Copied");
      say(said, `${name} is copied`);
      setTimeout(() => say(button, "Copy"), 1500);
    }),
  );
  return h("div", { class: "example" }, button, said, h("pre", { tabindex: "0" }, text));
}

function example(content) {
  const first = Object.values(content?.examples ?? {})[0]?.value;
  if (first === undefined) return null;
  return block(typeof first === "string" ? first : JSON.stringify(first, null, 2), "the example");
}

function table(heads, rows) {
  return h(
    "table",
    {},
    h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
    h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map((cell) => h("td", {}, cell))))),
  );
}

function parameters(operation) {
  if (!operation.parameters?.length) return [];
  const rows = operation.parameters.map((parameter) => [
    h("code", {}, parameter.name),
    `${parameter.in}${parameter.required ? ", required" : ""}`,
    [h("span", { class: "type" }, typeOf(parameter.schema, resolve)), ". ", inline(parameter.description)],
  ]);
  return [h("h4", {}, "Parameters"), table(["name", "in", "what"], rows)];
}

function fields(schema, summary) {
  const rows = properties(schema, resolve);
  if (!rows.length) return null;
  const cells = rows.map((row) => [
    h("code", {}, row.name),
    [
      h("span", { class: "type" }, `${row.type}${row.required ? "" : ", optional"}`),
      row.about ? [". ", inline(row.about)] : null,
    ],
  ]);
  return h("details", {}, h("summary", {}, summary), table(["field", "what"], cells));
}

function body(operation) {
  const content = operation.requestBody?.content?.["application/json"];
  if (!content) return [];
  return [h("h4", {}, "Body"), example(content), fields(content.schema, "Fields of the body")];
}

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

function article(operation) {
  const id = operation.operationId;
  return h(
    "article",
    { id, "aria-labelledby": `${id}-name`, "data-find": `${operation.method} ${operation.path} ${operation.summary}` },
    h(
      "h3",
      { id: `${id}-name` },
      h("span", { class: ["method", operation.method] }, operation.method.toUpperCase()),
      h("code", {}, operation.path),
      h("span", {}, operation.summary),
    ),
    operation.description ? prose(operation.description) : null,
    operation.security?.length === 0 ? h("p", { class: "quiet" }, "Needs no key.") : null,
    ...parameters(operation),
    ...body(operation),
    h("h4", {}, "With curl"),
    block(curl(operation, location.origin), "the command"),
    ...answers(operation),
  );
}

function draw() {
  say(at("version"), `version ${spec.info.version}`);
  const all = operations();
  const sections = spec.tags.map((tag) => ({ tag, items: all.filter((each) => each.tags[0] === tag.name) }));
  fill(
    at("contents"),
    sections.map(({ tag, items }) => [
      h("h2", {}, tag.name),
      ...items.map((each) => h("a", { href: `#${each.operationId}` }, each.summary)),
    ]).flat(),
  );
  fill(
    at("content"),
    h("section", {}, h("h2", {}, "The API"), prose(spec.info.description), authentication()),
    sections.map(({ tag, items }) =>
      h("section", {}, h("h2", {}, tag.name), h("p", { class: "quiet" }, tag.description), items.map(article)),
    ),
  );
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

function authentication() {
  const key = 'curl -H "X-API-KEY: $STACKD_API_KEY" ' + `${location.origin}/healthz`;
  const text =
    "Every route but those for browsers needs a key, in the `X-API-KEY` header or the `api_key` query parameter. " +
    "A key is made with `stackd key new`.";
  return h("div", {}, prose(text), block(key, "the command"));
}

function find(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  for (const each of document.querySelectorAll("article")) {
    const about = each.dataset.find.toLowerCase();
    each.hidden = !words.every((word) => about.includes(word));
  }
}

at("find").addEventListener("input", (event) => find(event.target.value));
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !event.target.closest("input, textarea")) {
    event.preventDefault();
    at("find").focus();
  }
});

try {
  const answer = await fetch("/openapi.json");
  if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
  spec = await answer.json();
  draw();
} catch (error) {
  say(at("state"), `The description cannot be read: ${error.message}`);
}
