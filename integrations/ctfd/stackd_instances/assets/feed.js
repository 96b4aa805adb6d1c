// What a page with boxes asks its server: again and again, with an answer within five seconds or a reason why not.

/** @import { State } from "./box.js" */

/**
 * The JSON of the answer, within five seconds. Raises an error with the `code` of the refusal, or `unreachable`.
 *
 * @param {(url: string, options: RequestInit) => Promise<Response>} send
 * @param {string} url @param {string} [method] @param {object} [body] @param {Record<string, string>} [headers]
 */
export async function request(send, url, method = "GET", body = {}, headers = {}) {
  const json = { headers: { "Content-Type": "application/json", ...headers }, body: JSON.stringify(body) };
  let answer, data;
  try {
    answer = await send(url, { method, signal: AbortSignal.timeout(5000), ...(method !== "GET" && json) });
    data = answer.status === 204 ? {} : await answer.json();
  } catch {
    throw Object.assign(new Error(), { code: "unreachable" });
  }
  if (answer.ok) return data.data ?? data;
  const sentences = Object.values(data.errors ?? {}).flat();
  throw Object.assign(new Error(sentences.join(" ") || data.player_message || ""), { code: data.code });
}

/** The proof of work, found beside the page. @param {string} folder @param {{ challenge: string, bits: number }} work @param {(fraction: number) => void} progress @returns {Promise<string>} */
export function solve(folder, work, progress) {
  const rules = { createScriptURL: (/** @type {string} */ url) => url };
  const policy = /** @type {any} */ (globalThis).trustedTypes?.createPolicy("stackd-work", rules) ?? rules;
  const worker = new Worker(policy.createScriptURL(`${folder}work.js`));
  return new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => (data.nonce ? resolve(data.nonce) : progress(data.tried / 2 ** work.bits));
    worker.onerror = () => reject(new Error());
    worker.postMessage(work);
  }).finally(() => worker.terminate());
}

/**
 * Read again and again while the page is visible: often while something happens, else seldom. `tell` makes all tabs look.
 *
 * @param {() => Promise<any>} read @param {(data: any) => State[]} show @param {(refusal: any) => void} lose
 */
export function follow(read, show, lose) {
  let [turn, quick, timer] = [0, 0, 0];
  const look = async () => {
    clearTimeout(timer);
    const mine = ++turn;
    let pause = 5000;
    try {
      const data = await read();
      if (mine !== turn) return; // somebody has looked since: this is older
      const soon = show(data).some(
        (each) => each.pending || (each.status.endsWith("ing") && each.status !== "running"),
      );
      quick = soon ? quick + 1 : 0;
      pause = !soon ? 20000 : quick < 15 ? 1000 : 3000;
    } catch (refusal) {
      if (mine !== turn) return;
      lose(refusal);
    }
    if (!document.hidden) timer = setTimeout(look, pause);
  };
  const news = new BroadcastChannel("stackd-instances");
  const gone = new AbortController();
  const seen = () => document.hidden || void look();
  news.addEventListener("message", seen, gone);
  document.addEventListener("visibilitychange", seen, gone);
  void look();
  const tell = () => {
    news.postMessage("");
    void look();
  };
  const stop = () => {
    turn += 1;
    clearTimeout(timer);
    gone.abort();
    news.close();
  };
  return { look, tell, stop };
}
