// What a page with boxes asks its server: again and again, with an answer within five seconds or a reason why not.

/** @import { State } from "./box.js" */

/** @typedef {(url: string, options: RequestInit) => Promise<Response>} Send */

/** The JSON of the answer, within five seconds. Raises an error with the `code` of the refusal, or `unreachable`. @param {Send} send @param {string} url @param {string} [method] @param {object} [body] @param {Record<string, string>} [headers] */
export async function request(send, url, method = "GET", body = {}, headers = {}) {
  const json = { headers: { "Content-Type": "application/json", ...headers }, body: JSON.stringify(body) };
  const more = method === "GET" ? { headers } : json;
  let answer, data;
  try {
    answer = await send(url, { method, signal: AbortSignal.timeout(5000), ...more });
    data = answer.status === 204 ? {} : await answer.json();
  } catch {
    throw Object.assign(new Error(), { code: "unreachable" });
  }
  if (answer.ok) return data.data ?? data;
  const sentences = Object.values(data.errors ?? {}).flat();
  const player_message = sentences.join(" ") || data.player_message;
  throw Object.assign(new Error(), { code: data.code, player_message });
}

/** Read again and again while the page is visible: so often that a message is seen within five seconds. `tell` makes all tabs look. @param {() => Promise<any>} read @param {(data: any) => State[]} show @param {(refusal: any) => void} lose */
export function follow(read, show, lose) {
  const news = new BroadcastChannel("stackd-instances");
  const gone = new AbortController();
  let [turn, timer] = [0, 0];
  const look = async () => {
    clearTimeout(timer);
    const mine = ++turn;
    const newest = () => mine === turn && !gone.signal.aborted;
    const states = await read()
      .then((data) => (newest() ? show(data) : []))
      .catch((refusal) => void (newest() && lose(refusal)));
    const soon = states?.some(({ pending, status }) => pending || /(start|stopp)ing$/.test(status));
    if (newest()) timer = setTimeout(seen, !states ? 5000 : soon ? 1500 : 2500);
  };
  const seen = () => document.hidden || void look();
  const tell = () => {
    news.postMessage("");
    void look();
  };
  news.onmessage = seen;
  document.addEventListener("visibilitychange", seen, gone);
  gone.signal.onabort = () => news.close();
  void look();
  return { tell, stop: () => gone.abort() };
}
