// The players' box: what one instance does, where it is reached, and its buttons. It renders a state and calls actions,
// in any page and any language; it knows no server. Text is only ever set as text.

/**
 * What a server says of an instance, as GET /play/stacks does. Times are seconds from the answer: a phone's clock may be wrong.
 *
 * @typedef {Record<string, any>} State
 * @typedef {{ texts: any, look: () => void, actions: Record<string, (state: State, instead: string) => Promise<State>> }} Options
 */

const LANGUAGES = ["en", "de", "fr", "es"];

/** @template {keyof HTMLElementTagNameMap} Name @param {Name} name @param {Record<string, any>} [properties] @param {...any} children */
export function h(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children.filter(Boolean));
  return element;
}

/** What is written into a live region is read aloud again. @param {HTMLElement} element @param {string} text */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
  element.hidden = !text;
}

/** The texts in the first of these languages that there is, as soon as they can be had. @param {string} folder @param {...string} wanted */
export async function load(folder, ...wanted) {
  const { host = "" } = document.documentElement.dataset; // whom to ask, if not the organisers
  const short = wanted.map((each) => each.toLowerCase().split(/[-_]/)[0] ?? "");
  const language = short.find((each) => LANGUAGES.includes(each)) ?? "en";
  const read = async () => (await fetch(`${folder}${language}.json`)).json();
  let file = await read().catch(() => null);
  for (; !file?.start; file = await read().catch(() => null)) await new Promise((again) => setTimeout(again, 2000));
  const found = new Map();
  for (const [keys, text] of Object.entries(file)) {
    const [kind, names] = keys.split(".");
    for (const name of names?.split(" ") ?? [""]) found.set(name ? `${kind}.${name}` : kind, text);
  }
  if (host) found.set("host", host);
  const text = (/** @type {string} */ key, /** @type {State} */ values = {}) =>
    String(found.get(key) ?? "").replace(/\{(\w+)\}(\.?)/g, (_, name, stop) => {
      const value = String((name === "host" ? found.get(name) : values[name]) ?? "");
      return value.endsWith(".") ? value : value + stop; // "15 min." at the end of a sentence
    });
  // The reason, and what is to be done: nothing if `again`, since then it is tried again without another press.
  const why = (/** @type {State} */ { key, code, player_message: said }, again = false) => {
    const name = text(`why.${key ?? code}`) || said ? (key ?? code) : "other";
    const later = text(`later.${name}`);
    return `${text(`why.${name}`) || said} ${later && again ? text("again") : later}`.trim();
  };
  // The minute in which so many seconds are over, in the reader's zone.
  const when = (/** @type {number} */ seconds) => {
    const written = navigator.language.startsWith(language) ? navigator.language : language;
    const minute = new Date(Math.round(Date.now() / 60000 + seconds / 60) * 60000);
    return minute.toLocaleString(written, { dateStyle: "medium", timeStyle: "short" });
  };
  return Object.assign(text, { language, why, when });
}

/** Show these messages in a live region, which reads each once: when it is added. @param {Element} region @param {{ message_id: string, text: string }[]} [messages] */
export function announce(region, messages = []) {
  const ids = messages.map((each) => each.message_id);
  for (const shown of [...region.children]) if (!ids.includes(shown.id)) shown.remove();
  const there = [...region.children].map((shown) => shown.id);
  for (const { message_id: id, text } of messages) {
    if (!there.includes(id)) region.append(h("p", { id, className: "sunken" }, text));
  }
}

/** Whether it is not open, on a page that says in how many seconds it opens, or (below zero) closed. @param {State} state */
const closed = ({ problem, opens_in }) => problem?.key === "template_closed" && opens_in !== undefined;

const titleOf = (/** @type {State | undefined} */ state) => state?.title || state?.challenge || "";

/** A box in an element of a page whose styles do not reach it; what the element contains stands below the title. */
export class Box {
  /** @type {State} */
  state = { name: "", status: "" };
  /** @type {any} */
  refusal = null;
  busy = false;
  drawn = "";
  at = 0;
  title = h("h2");
  status = h("p", { id: "status", role: "status", tabIndex: -1 });
  doing = h("p", { id: "doing" });
  problem = h("p", { id: "problem", role: "alert" });
  news = h("div", { id: "news", ariaLive: "polite" });
  body = h("div");

  /** @param {HTMLElement} host @param {Options} options */
  constructor(host, options) {
    this.host = host;
    this.options = options;
    this.texts = options.texts;
    const parts = [this.title, this.news, this.status, h("slot"), this.doing, this.problem, this.body];
    this.section = h("section", { lang: this.texts.language, hidden: true }, ...parts);
    const shown = () => this.section.removeAttribute("hidden");
    const href = new URL("box.css", import.meta.url).href;
    this.root = host.attachShadow({ mode: "open" });
    this.root.append(h("link", { rel: "stylesheet", href, onload: shown, onerror: shown }), this.section);
    setInterval(() => host.isConnected && this.tick(), 1000);
  }

  /** @param {State} state */
  show(state) {
    if (this.busy) return;
    if (state.status !== this.state.status) {
      this.refusal = null;
      this.root.querySelector("dialog")?.close();
    }
    if (state !== this.state) this.at = Date.now();
    this.state = state;
    this.draw();
  }

  /** There is no answer: say why until there is one. @param {{ code?: string, player_message?: string }} refusal */
  lose({ code = "other", player_message = "" }) {
    this.state = { ...this.state, problem: { ...this.state.problem, key: code, player_message, again: true } };
    this.draw();
  }

  /** @param {string} what @param {State} [other] that is stopped for it */
  async press(what, other) {
    [this.busy, this.refusal] = [true, null];
    this.draw();
    const state = await this.options.actions[what]?.(this.state, other?.name).catch((refusal) => {
      if (refusal.code === "unreachable") this.lose(refusal);
      else this.refusal = refusal;
    });
    this.busy = false;
    this.show(state ?? this.state);
    this.options.look();
  }

  draw() {
    const { state, texts, refusal } = this;
    const { problem, seconds_left, doing, opens_in, messages, ...lasting } = state;
    const ended = state.status === "none" && problem && texts(`ended.${problem.key}`);
    const help = state.status === "failed" && problem?.restart !== false ? texts("help.restart") : "";
    const again = state.pending || problem?.again;
    const whose = problem?.member ? `${problem.member}: ` : ""; // of several pods
    let failed = problem && !ended && `${whose}${texts.why(problem, again)} ${help}`.trim();
    if (closed(state)) failed = texts(opens_in > 0 ? "opens" : "over", { time: texts.when(opens_in) });
    if (messages) announce(this.news, messages);
    say(this.problem, refusal ? texts.why(refusal) : failed || "");
    this.sentence = `${ended || texts(`status.${state.status}`)} ${texts(`by.${state.organiser}`)}`.trim();
    this.section.dataset.status = state.status;
    this.section.ariaBusy = String(this.busy);
    const drawn = JSON.stringify([lasting, problem, seconds_left === null]);
    if (drawn !== this.drawn) {
      const focused = this.root.activeElement?.id;
      const title = titleOf(state) || texts("instance");
      this.section.ariaLabel = title;
      this.title.replaceChildren(state.href ? h("a", { href: state.href, id: "link" }, title) : title);
      this.body.replaceChildren(...[this.lines(), this.life(), this.choices()].flat().filter((each) => !!each));
      if (focused && !this.root.activeElement) (this.root.getElementById(focused) ?? this.status).focus();
    }
    this.drawn = drawn;
    this.tick();
  }

  /** Its parts if one does not run, the addresses, and the values that the player may see. */
  lines() {
    const lines = [];
    const { members = [], addresses = [], values = [] } = this.state;
    for (const { name, status } of members) lines.push(h("p", {}, this.texts(`member.${status}`, { name })));
    for (const { port, text, url } of addresses) lines.push(this.line(addresses[1] ? `${port ?? ""}` : "", text, url));
    for (const { name, value } of values) lines.push(this.line(name, value, "", true));
    return lines;
  }

  /** @param {string} label @param {string} text @param {string} [href] @param {boolean} [secret] */
  line(label, text, href = "", secret = false) {
    const link = /^https?:\/\//.test(href) && { href, target: "_blank", rel: "noopener", id: text };
    const shown = h(link ? "a" : "code", { hidden: secret, ...link }, text);
    const reveal = this.button(this.texts("reveal"), { id: `reveal ${label}`, ariaDescription: label }, () => {
      shown.hidden = !shown.hidden;
      reveal.textContent = this.texts(shown.hidden ? "reveal" : "hide");
    });
    const copied = h("span", { ariaLive: "polite" });
    const name = `${this.texts("copy")} ${secret ? label : text}`;
    const copy = this.button("", { id: name, className: "copy", ariaLabel: name }, () => {
      const field = h("textarea", { value: text, readOnly: true }); // a page without TLS has no clipboard
      copied.replaceChildren(field);
      field.select();
      document.execCommand("copy");
      copied.textContent = this.texts("copied");
      copy.focus();
      setTimeout(() => copied.replaceChildren(), 2000);
    });
    return h("div", { className: "line" }, label && h("span", {}, label), shown, copied, secret && reveal, copy);
  }

  /** The time that is left, and how to get more. */
  life() {
    const { status, seconds_left, extension_seconds = 0, extensions_left = 0, since } = this.state;
    const length = (/** @type {number} */ seconds) => {
      const [unit, size] = seconds % 3600 && seconds < 36000 ? ["minute", 60] : ["hour", 3600];
      const unitDisplay = since ? "long" : "short";
      const format = /** @type {any} */ ({ style: "unit", unit, unitDisplay, maximumFractionDigits: 0 });
      return new Intl.NumberFormat(this.texts.language, format).format(seconds / Number(size));
    };
    if (status === "shared" && since) return [h("p", {}, this.texts("since", { time: length(since) }))];
    if (status !== "running" || seconds_left == null) return [];
    const time = h("span", { id: "time", role: "timer" });
    const more = this.texts("more", { time: length(extension_seconds), left: extensions_left });
    return extensions_left > 0 ? [time, this.action("extend", { more }), h("span", {}, more)] : [time];
  }

  /** The buttons, and what is in the way of a start. */
  choices() {
    const { status, problem, others = [], makes_room, limit, budget, spent, cost } = this.state;
    if (closed(this.state)) return [];
    if (status === "none" && "start" in this.options.actions) {
      const title = (makes_room ? others.slice(0, 1) : others).map(titleOf).join(", ");
      const dear = budget && h("p", {}, this.texts("cost", { budget, spent, cost }));
      const full = budget && spent + cost > budget ? "room" : "limit";
      const hint = title && h("p", {}, this.texts(makes_room ? "makes_room" : full, { limit, title }));
      if (makes_room || !title) return [dear, hint, this.action("start", {})];
      return [dear, hint, ...others.map((/** @type {State} */ other) => this.action("start", { asks: true, other }))];
    }
    const asks = status === "running";
    const again = asks || (status === "failed" && problem?.restart !== false);
    const ends = !["none", "stopping", "shared"].includes(status);
    const both = [again && this.action("restart", { asks }), ends && this.action("stop", { asks })].filter(Boolean);
    return both.length ? [h("div", { className: "ends" }, ...both)] : [];
  }

  /** @param {string} what @param {{ asks?: boolean, other?: State, more?: string }} how */
  action(what, { asks = false, other, more = "" }) {
    if (!this.options.actions[what]) return null; // it is only read
    const name = this.texts(other ? "instead" : what, { title: titleOf(other) });
    const ariaDescription = `${this.section.ariaLabel} ${more}`.trim();
    const properties = { id: what + (other?.name ?? ""), className: other ? "" : what, ariaDescription };
    return this.button(name, properties, () => (asks ? this.ask(what, other) : this.press(what, other)));
  }

  /** Ask whether it is meant. @param {string} what @param {State} [other] */
  ask(what, other) {
    const [kind, title] = [other ? "instead" : what, titleOf(other)];
    const text = this.texts(`sure.${kind}`, { title });
    const keep = this.button(this.texts("keep"), {}, () => dialog.close());
    const sure = this.button(this.texts(`yes.${kind}`), { className: "stop" }, () => dialog.close("sure"));
    const dialog = h("dialog", { ariaLabel: text }, h("p", {}, text), keep, sure);
    dialog.onkeydown = (event) => event.stopPropagation(); // Escape would close the window around the box, too
    dialog.onclose = () => {
      dialog.remove();
      if (dialog.returnValue) void this.press(what, other);
    };
    this.section.append(dialog);
    dialog.showModal();
  }

  /** @param {string} name @param {Record<string, string>} properties @param {() => unknown} click */
  button(name, properties, click) {
    return h("button", { type: "button", onclick: () => this.busy || void click(), ...properties }, name);
  }

  /** What changes with each second. */
  tick() {
    const { state, texts } = this;
    const passed = Math.round((Date.now() - this.at) / 1000);
    const { key, seconds = 0 } = state.doing ?? {};
    say(this.doing, key ? texts(`doing.${key}`, { seconds: seconds + passed }) : "");
    const time = this.root.getElementById("time");
    if (!time) return say(this.status, this.sentence ?? "");
    const left = Math.max(0, (state.seconds_left ?? 0) - passed);
    const clock = new Date((left % 3600) * 1000).toISOString().slice(14, 19);
    say(time, left < 3600 ? clock.replace(/^0/, "") : `${Math.floor(left / 3600)}:${clock}`);
    time.className = left < 60 ? "minute" : left < 300 ? "minutes" : left <= state.notice ? "closes" : "";
    say(this.status, `${this.sentence} ${texts(time.className)}`.trim());
    if (left === 0 && passed % 5 === 3 && !this.busy) this.options.look();
  }
}

/** Show a box for each state, in their order. @param {Element} list @param {(state: State) => Box} make */
export function arrange(list, make) {
  const boxes = new Map();
  return (/** @type {State[]} */ states) => {
    const keys = new Set();
    for (const [place, state] of states.entries()) {
      const key = keys.has(state.template) ? state.name : state.template || state.name;
      keys.add(key);
      const box = boxes.get(key) ?? make(state);
      boxes.set(key, box);
      if (list.children[place] !== box.host) list.insertBefore(box.host, list.children[place] ?? null);
      box.show(state);
    }
    while (list.children.length > states.length) list.lastElementChild?.remove();
    return states;
  };
}
