// Requests to the API, with the key of this tab; errors carry the API's own sentence.

const KEPT = "stackd.key";

/** An answer that is no success; `status` is 0 where there was no answer at all. */
export class Refusal extends Error {
  constructor(status, sentence, body = null) {
    super(sentence);
    this.status = status;
    this.body = body;
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEPT) ?? "",
  keep: (text) => sessionStorage.setItem(KEPT, text),
  forget: () => sessionStorage.removeItem(KEPT),
};

let unauthorized = () => {};

/** What to do when the key is no longer good. */
export function onUnauthorized(listener) {
  unauthorized = listener;
}

/** The raw answer to a request, which is a success. */
export async function send(method, path, { body, signal, headers = {} } = {}) {
  const given = { ...headers };
  if (key.get()) given["X-API-KEY"] = key.get();
  if (body !== undefined) given["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, {
      method,
      signal,
      headers: given,
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "stackd does not answer");
  }
  if (answer.ok) return answer;
  const refused = await refusal(answer);
  if (answer.status === 401) unauthorized(refused);
  throw refused;
}

/** The answer's JSON. */
export async function ask(method, path, options) {
  const answer = await send(method, path, options);
  try {
    return await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "the answer was cut off");
  }
}

/** The answer's text. */
export async function read(path, options) {
  const answer = await send("GET", path, options);
  return answer.text();
}

/** A stack's path; ids are the API's, but they stand in a path here. */
export function pathOf(id, verb = "") {
  return `/stacks/${encodeURIComponent(id)}${verb ? `/${verb}` : ""}`;
}

async function refusal(answer) {
  try {
    const body = await answer.json();
    return new Refusal(answer.status, String(body.error ?? answer.statusText), body);
  } catch {
    return new Refusal(answer.status, `${answer.status} ${answer.statusText}`);
  }
}
