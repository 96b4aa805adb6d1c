// JSON Schema in words, and descriptions as paragraphs and lists.

import { h, inline } from "../shared/dom.js";

/** @typedef {(value: any) => any} Resolve */

/**
 * A schema's type in a few words.
 *
 * @param {any} schema
 * @param {Resolve} resolve
 * @returns {string}
 */
export function typeOf(schema, resolve) {
  const name = schema.$ref?.split("/").at(-1);
  const found = resolve(schema);
  for (const word of ["oneOf", "anyOf"]) {
    if (found[word] && !found.properties)
      return found[word].map((/** @type {any} */ each) => typeOf(each, resolve)).join(" or ");
  }
  if (found.const !== undefined) return JSON.stringify(found.const);
  if (found.enum) return found.enum.map((/** @type {any} */ each) => JSON.stringify(each)).join(" or ");
  const types = [found.type ?? "anything"].flat();
  if (types.includes("array")) return `list of ${typeOf(found.items ?? {}, resolve)}`;
  if (types.includes("object")) return name && found.properties ? name : "object";
  const format = found.format && !found.format.startsWith("stackd-") ? ` (${found.format})` : "";
  return types.join(" or ") + format + limits(found);
}

/**
 * The fields of an object, lists looked into, one level deep.
 *
 * @param {any} schema
 * @param {Resolve} resolve
 */
export function properties(schema, resolve) {
  let found = resolve(schema);
  if (found.oneOf && !found.properties) found = resolve(found.oneOf[0]);
  if (found.type === "array") found = resolve(found.items);
  return Object.entries(found.properties ?? {}).map(([name, given]) => ({
    name,
    type: typeOf(given, resolve),
    required: (found.required ?? []).includes(name),
    about: resolve(given).description ?? "",
  }));
}

/**
 * A description as paragraphs and lists.
 *
 * @param {string} text
 */
export function prose(text) {
  const blocks = text.split(/\n{2,}/).map((part) => {
    const lines = part.split("\n");
    if (lines.every((line) => line.startsWith("- "))) {
      return h(
        "ul",
        { class: "prose" },
        lines.map((line) => h("li", {}, inline(line.slice(2)))),
      );
    }
    return h("p", { class: "prose" }, inline(lines.join(" ")));
  });
  return h("div", {}, blocks);
}

/** @param {any} schema */
function limits(schema) {
  const said = [];
  if (schema.minimum !== undefined && schema.maximum !== undefined) said.push(`${schema.minimum}–${schema.maximum}`);
  if (schema.maxLength !== undefined) said.push(`at most ${schema.maxLength} characters`);
  return said.length ? `, ${said.join(", ")}` : "";
}
