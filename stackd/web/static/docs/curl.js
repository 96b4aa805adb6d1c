// One curl command for a route, with its own example, fit to be pasted into a shell.

/** @import { Operation } from "./docs.js" */

/**
 * The command for an operation at this address.
 *
 * @param {Operation} operation
 * @param {string} origin
 */
export function curl(operation, origin) {
  const words = ["curl", "-s"];
  if (operation.responses["200"]?.content?.["text/event-stream"]) words.push("-N");
  if (operation.method !== "get") words.push("-X", operation.method.toUpperCase());
  if (operation.security?.length !== 0) words.push("-H", '"X-API-KEY: $STACKD_API_KEY"');
  const body = Object.values(operation.requestBody?.content?.["application/json"]?.examples ?? {})[0]?.value;
  if (body !== undefined) words.push("-d", quoted(JSON.stringify(body)));
  words.push(quoted(origin + address(operation)));
  return words.join(" ");
}

/** @param {Operation} operation */
function address(operation) {
  const query = [];
  let path = operation.path;
  for (const parameter of operation.parameters ?? []) {
    if (parameter.in === "path") path = path.replace(`{${parameter.name}}`, String(parameter.example ?? "…"));
    else if (parameter.in === "query" && parameter.example !== undefined) {
      query.push(...[parameter.example].flat().map((value) => `${parameter.name}=${value}`));
    }
  }
  return query.length ? `${path}?${query.join("&")}` : path;
}

/** @param {string} text */
function quoted(text) {
  return /^[\w:/.=,-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
