// The players' box: what one instance does, where it is reached, and its buttons. It renders a state and calls actions,
// in any page and any language; it knows no server. Text is only ever set as text.

/**
 * Times are seconds, relative to the moment of the answer: a phone's clock may be wrong.
 *
 * @typedef {{ name: string, title?: string, challenge?: string }} Other
 * @typedef {Other & { status: string, href?: string, pending?: boolean, doing?: { key: string, seconds: number } | null,
 *   problem?: { key: string, message?: string, restart?: boolean, theirs?: boolean } | null, values?: { name: string, value: string }[],
 *   addresses?: { text: string, href?: string, port?: number, label?: string }[], seconds_left?: number | null,
 *   extension_seconds?: number, extensions_left?: number, since?: number, others?: Other[], makes_room?: boolean,
 *   limit?: number, template?: string, category?: string, description?: string }} State
 * @typedef {(state: State, instead: string | undefined, work: (fraction: number) => void) => Promise<State>} Action
 * @typedef {{ key?: string, code?: string, message?: string }} Reason
 * @typedef {((key: string, values?: Record<string, any>) => string) & {
 *   language: string, why: (reason: Reason, values?: object) => string, percent: (part: number) => string }} Texts
 * @typedef {{ texts: Texts, actions: Record<string, Action>, look: () => void, level?: number }} Options
 */

const LANGUAGES = ["en", "de", "fr", "es"];
const DOTS = "••••••••";

/**
 * @template {keyof HTMLElementTagNameMap} Name
 * @param {Name} name @param {Record<string, any>} [attributes] @param {...(Node | string | false | undefined)} children
 */
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes))
    if (key === "click") element.onclick = value;
    else if (value) element.setAttribute(key, value);
  element.append(...children.filter((each) => each !== false && each !== undefined));
  return element;
}

/** What is written into a live region is read aloud again. @param {HTMLElement} element @param {string} text */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
  element.hidden = !text;
}

/** The texts in the first of these languages that there is. @param {string} folder @param {...string} wanted @returns {Promise<Texts>} */
export async function load(folder, ...wanted) {
  const short = wanted.map((each) => each.toLowerCase().split(/[-_]/)[0] ?? "");
  const language = short.find((each) => LANGUAGES.includes(each)) ?? "en";
  /** @type {Map<string, string>} */
  const found = new Map();
  for (const [keys, text] of Object.entries(await (await fetch(`${folder}${language}.json`)).json())) {
    const [kind, names] = keys.split(".");
    for (const name of (names ?? "").split(" ")) found.set(names ? `${kind}.${name}` : keys, text);
  }
  const text = (/** @type {string} */ key, /** @type {Record<string, any>} */ values = {}) =>
    (found.get(key) ?? "").replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
  const why = (/** @type {Reason} */ { key, code, message }, values = {}) =>
    text(`why.${key ?? code}`, values) || message || text("why.other");
  const percent = (/** @type {number} */ part) => text("working", { percent: Math.min(99, Math.round(part * 100)) });
  return Object.assign(text, { language, why, percent });
}

/** @param {Other} [state] */
const titleOf = (state) => state?.title || state?.challenge || "";

/** A box in an element of a page whose styles do not reach it; what the element contains stands below the title. */
export class Box {
  /** @type {State} */
  state = { name: "", status: "" };
  /** What waits for a confirmation. @type {{ what: string, other?: Other | undefined, status: string } | null} */
  asked = null;
  /** @type {any} */
  refusal = null;
  busy = false;
  drawn = "";
  working = "";
  at = 0;
  timer = 0;
  title = h("div", { id: "title", role: "heading" });
  status = h("p", { id: "status", role: "status", tabindex: "-1" });
  doing = h("p", { id: "doing" });
  problem = h("p", { id: "problem", role: "alert" });
  body = h("div", { class: "body" });

  /** @param {HTMLElement} host @param {Options} options */
  constructor(host, { texts, actions, look, level = 3 }) {
    this.host = host;
    this.texts = texts;
    this.actions = actions;
    this.look = look;
    this.title.ariaLevel = String(level);
    const head = h("div", { class: "head" }, h("span", { class: "dot" }), this.title, this.status);
    this.section = h("section", { "aria-labelledby": "title", lang: texts.language, hidden: "hidden" });
    this.section.append(head, h("slot"), this.doing, this.problem, this.body);
    const sheet = h("link", { rel: "stylesheet", href: new URL("box.css", import.meta.url) });
    sheet.onload = sheet.onerror = () => this.section.removeAttribute("hidden");
    this.root = host.attachShadow({ mode: "open" });
    this.root.append(sheet, this.section);
    this.section.onkeydown = (event) => {
      if (event.key !== "Escape" || !this.asked) return;
      event.stopPropagation(); // it would close the window around the box
      this.ask();
    };
  }

  /** @param {State} state */
  show(state) {
    if (this.busy) return;
    const passing = this.refusal?.passing || this.refusal?.code === "unreachable";
    if (passing || state.status !== this.state.status) this.refusal = null;
    if (state.status !== this.asked?.status) this.asked = null;
    this.state = state;
    this.at = Date.now();
    this.draw();
  }

  /** The page gets no answer. @param {object} refusal */
  lose(refusal) {
    this.refusal = Object.assign(refusal, { passing: true });
    this.draw();
  }

  /** @param {string} what @param {Other} [other] that is stopped for it */
  async press(what, other) {
    Object.assign(this, { busy: true, refusal: null, asked: null });
    this.draw();
    let { state, refusal } = this;
    try {
      state =
        (await this.actions[what]?.(state, other?.name, (fraction) => {
          this.working = this.texts.percent(fraction);
          this.tick();
        })) ?? state;
    } catch (error) {
      refusal = error;
    }
    Object.assign(this, { busy: false, working: "" });
    this.show(state);
    this.refusal = refusal;
    this.draw();
    this.look();
  }

  /** Ask for a confirmation, or no longer. @param {string} [what] @param {Other} [other] */
  ask(what, other) {
    const before = this.asked;
    this.asked = what ? { what, other, status: this.state.status } : null;
    this.draw();
    this.root.getElementById(before ? before.what + (before.other?.name ?? "") : "keep")?.focus();
  }

  draw() {
    const { state, texts, refusal } = this;
    const { problem, seconds_left, doing, ...lasting } = state;
    const title = titleOf(state) || texts("instance");
    if (this.title.textContent !== title)
      this.title.replaceChildren(state.href ? h("a", { href: state.href }, title) : title);
    this.section.dataset.status = state.status;
    this.section.ariaBusy = String(this.busy);
    const ended = state.status === "none" && problem && texts(`ended.${problem.key}`);
    const told = problem?.restart === false && ["image", "config"].includes(problem.key);
    const help = told ? texts("help.organisers") : state.status === "failed" && texts("help.restart");
    const failed = problem && !ended && [(problem.theirs && problem.message) || texts.why(problem), help];
    say(this.problem, refusal ? texts.why(refusal) : (failed || []).filter(Boolean).join(" "));
    this.sentence = ended || texts(`status.${state.status}`);
    const drawn = JSON.stringify([lasting, problem, seconds_left === null, this.asked]);
    if (drawn !== this.drawn) {
      this.drawn = drawn;
      const focused = this.root.activeElement?.id;
      this.body.replaceChildren(
        ...this.lines(),
        ...this.life(),
        this.asked ? this.question(this.asked) : this.choices(),
      );
      if (focused && !this.root.activeElement) (this.root.getElementById(focused) ?? this.status).focus();
    }
    for (const button of this.body.querySelectorAll("button")) button.ariaDisabled = String(this.busy);
    this.tick();
  }

  /** The addresses, and the values that the player may see. */
  lines() {
    const { addresses = [], values = [] } = this.state;
    const label = (/** @type {any} */ { label, port }) => label || (addresses.length > 1 && port ? String(port) : "");
    const lines = addresses.map((each) => this.line(label(each), each.text, each.href));
    for (const { name, value } of values) lines.push(this.line(name, value, "", true));
    return lines.length ? [h("ul", {}, ...lines)] : [];
  }

  /** @param {string} label @param {string} text @param {string} [href] @param {boolean} [secret] */
  line(label, text, href = "", secret = false) {
    const { texts } = this;
    const link = /^https?:\/\//.test(href) && { href, target: "_blank", rel: "noopener", id: text };
    const shown = h(link ? "a" : "code", { class: "text", ...link }, secret ? DOTS : text);
    const reveal = this.button(texts("reveal"), { id: `reveal ${label}`, "aria-description": label }, () => {
      shown.textContent = shown.textContent === text ? DOTS : text;
      reveal.textContent = texts(shown.textContent === text ? "hide" : "reveal");
    });
    const copied = h("span", { "aria-live": "polite" });
    const name = `${texts("copy")} ${secret ? label : text}`;
    const copy = async () => {
      await copyText(text);
      copied.textContent = texts("copied");
      setTimeout(() => copied.replaceChildren(), 2000);
    };
    return h(
      "li",
      {},
      label && h("span", { class: "label" }, label),
      shown,
      copied,
      secret && reveal,
      this.button("", { id: name, title: name, "aria-label": name, class: "copy" }, copy),
    );
  }

  /** The time that is left, and how to get more. */
  life() {
    const { status, seconds_left, extension_seconds = 0, extensions_left = 0, since } = this.state;
    const length = (/** @type {number} */ seconds) => {
      const [unit, size] = seconds % 3600 && seconds < 36000 ? ["minute", 60] : ["hour", 3600];
      const format = { style: /** @type {const} */ ("unit"), unit, maximumFractionDigits: 0 };
      return new Intl.NumberFormat(this.texts.language, format).format(seconds / Number(size));
    };
    if (status === "shared" && since) return [h("p", {}, this.texts("since", { time: length(since) }))];
    if (status !== "running" || seconds_left == null) return [];
    const more = this.texts("more", { time: length(extension_seconds), left: extensions_left });
    const extend = extensions_left > 0 ? [this.action("extend"), h("span", { id: "more" }, more)] : [];
    return [h("div", { class: "row life" }, h("span", { id: "time", role: "timer" }), ...extend)];
  }

  /** The buttons. */
  choices() {
    const { status, problem, others = [], makes_room, limit } = this.state;
    const runs = status === "running";
    const starts = status === "none" && "start" in this.actions;
    const title = (makes_room ? others.slice(0, 1) : others).map(titleOf).join(", ");
    const hint = starts && title && h("p", {}, this.texts(makes_room ? "makes_room" : "limit", { limit, title }));
    const instead = starts && !makes_room ? others.map((other) => this.action("start", true, other)) : [];
    return h(
      "div",
      { class: "row choices" },
      hint || "",
      ...instead,
      starts && !instead.length && this.action("start"),
      (runs || (status === "failed" && problem?.restart !== false)) && this.action("restart", runs),
      !["none", "stopping", "shared", ""].includes(status) && this.action("stop", runs),
    );
  }

  /** @param {{ what: string, other?: Other | undefined }} asked */
  question({ what, other }) {
    const kind = other ? "instead" : what;
    const text = this.texts(`sure.${kind}`, { title: titleOf(other) });
    const keep = this.button(this.texts("keep"), { id: "keep" }, () => this.ask());
    const sure = this.button(this.texts(`yes.${kind}`), { id: "sure", class: "danger" }, () => this.press(what, other));
    return h("div", { class: "row ask", role: "group", "aria-label": text }, h("p", {}, text), keep, sure);
  }

  /** @param {string} what @param {boolean} [asks] @param {Other} [other] */
  action(what, asks = false, other) {
    const name = this.texts(other ? "instead" : what, { title: titleOf(other) });
    const described = what === "extend" ? "title more" : "title";
    const attributes = { id: what + (other?.name ?? ""), class: other ? "" : what, "aria-describedby": described };
    return this.button(name, attributes, () => (asks ? this.ask(what, other) : this.press(what, other)));
  }

  /** @param {string} name @param {Record<string, string>} attributes @param {() => unknown} click */
  button(name, attributes, click) {
    return h("button", { type: "button", click: () => this.busy || void click(), ...attributes }, name);
  }

  /** What changes with each second. */
  tick() {
    clearTimeout(this.timer);
    if (this.host.isConnected) this.timer = setTimeout(() => this.tick(), 1000 - (Date.now() % 1000));
    const { state, texts } = this;
    const passed = Math.round((Date.now() - this.at) / 1000);
    const { key, seconds = 0 } = state.doing ?? {};
    say(this.doing, this.working || (key ? texts(`doing.${key}`, { seconds: seconds + passed }) : ""));
    const time = this.root.getElementById("time");
    const left = time ? Math.max(0, (state.seconds_left ?? 0) - passed) : 3600;
    const pressing = left < 60 ? "minute" : left < 300 ? "minutes" : "";
    this.section.dataset.pressing = pressing;
    const clock = new Date((left % 3600) * 1000).toISOString().slice(14, 19);
    if (time) say(time, left < 3600 ? clock.replace(/^0/, "") : `${Math.floor(left / 3600)}:${clock}`);
    say(this.status, pressing ? `${this.sentence} ${texts(pressing)}` : (this.sentence ?? ""));
    if (left === 0 && passed % 5 === 3 && !this.busy) this.look();
  }
}

/**
 * Show a box for each state, in their order; one stays as long as its key does.
 *
 * @param {Element} list @param {(state: State) => string} keyOf @param {(state: State) => Box} make
 */
export function arrange(list, keyOf, make) {
  /** @type {Map<string, Box>} */
  const boxes = new Map();
  return (/** @type {State[]} */ states) => {
    const shown = states.map((state) => boxes.get(keyOf(state)) ?? make(state));
    const hosts = shown.map(({ host }) => host);
    const same = hosts.length === list.children.length && hosts.every((each, place) => each === list.children[place]);
    if (!same) list.replaceChildren(...hosts);
    boxes.clear();
    for (const [place, state] of states.entries()) {
      shown[place]?.show(state);
      if (shown[place]) boxes.set(keyOf(state), shown[place]);
    }
    return states;
  };
}

/** @param {string} text */
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const write = (/** @type {ClipboardEvent} */ event) => {
      event.clipboardData?.setData("text/plain", text);
      event.preventDefault();
    };
    document.addEventListener("copy", write, { once: true });
    document.execCommand("copy"); // a page without TLS has no clipboard
  }
}
