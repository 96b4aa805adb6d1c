// Requests to the API, with the key of this tab or the session of this browser; errors carry the API's own sentence.

import { key } from "./session.js";

/** @typedef {{ body?: unknown, signal?: AbortSignal, headers?: Record<string, string> }} Options */

/** An answer that is no success; `status` is 0 where there was no answer at all. */
export class Refusal extends Error {
  /** @param {number} status @param {string} sentence @param {Record<string, any> | null} [body] */
  constructor(status, sentence, body = null) {
    super(sentence);
    this.status = status;
    this.body = body;
  }
}

/** What an error says. @param {unknown} error */
export const sentence = (error) => (error instanceof Error ? error.message : String(error));

/** @type {(refused: Refusal) => void} */
let unauthorized = () => {};

/** What to do when the key is no longer good. @param {(refused: Refusal) => void} listener */
export function onUnauthorized(listener) {
  unauthorized = listener;
}

/** The raw answer to a request, which is a success. @param {string} method @param {string} path @param {Options} [options] */
export async function send(method, path, { body, signal, headers = {} } = {}) {
  const all = { ...headers };
  if (key.get()) all["X-API-KEY"] = key.get();
  else all["X-Session"] = "1"; // that of a person who has signed in, if there is one
  if (body !== undefined) all["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, {
      method,
      signal: signal ?? null,
      headers: all,
      body: body === undefined ? null : JSON.stringify(body),
      cache: "no-store",
      credentials: key.get() ? "omit" : "same-origin",
      redirect: "error",
    });
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new Refusal(0, "stackd does not answer");
  }
  if (answer.ok) return answer;
  const refused = await refusal(answer);
  if (answer.status === 401) unauthorized(refused);
  throw refused;
}

/** The answer's JSON. @param {string} method @param {string} path @param {Options} [options] */
export async function ask(method, path, options) {
  const answer = await send(method, path, options);
  try {
    return await answer.json();
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new Refusal(0, "the answer was cut off");
  }
}

/** A stack's path; ids are the API's, but they stand in a path here. @param {string} id */
export const pathOf = (id, verb = "") => `/stacks/${encodeURIComponent(id)}${verb ? `/${verb}` : ""}`;

/** @param {Response} answer */
async function refusal(answer) {
  try {
    const body = await answer.json();
    return new Refusal(answer.status, String(body.error ?? answer.statusText), body);
  } catch {
    return new Refusal(answer.status, `${answer.status} ${answer.statusText}`);
  }
}

/** @param {unknown} error */
const isAbort = (error) => error instanceof DOMException && error.name === "AbortError";
