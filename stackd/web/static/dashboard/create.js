// Creating a stack from YAML: the API checks it, and what it refuses is shown at the line.

import { button, fill, h, say } from "../shared/dom.js";
/** @import { StackData } from "./stack.js" */
/** @import { Template } from "./templates.js" */

import { ask, Refusal, sentence } from "./api.js";
import { dialog } from "./dialogs.js";
import { tell } from "./toasts.js";

const EXAMPLE = `apiVersion: v1
kind: Pod
metadata:
  name: challenge
spec:
  containers:
    - name: app
      image: nginx:stable
      ports:
        - containerPort: 80
          protocol: TCP
      resources:
        limits:
          cpu: "100m"
          memory: "128Mi"
`;

/**
 * One thing that is wrong: in a line of the YAML, in a field beside it, or neither.
 *
 * @typedef {{ line: number | null, field: Field | null, text: string }} Mistake
 * @typedef {"ports" | "ttl" | "labels"} Field
 */

/**
 * What was typed last stays for the next time. A create whose answer was lost is sent again under the same key, so that
 * it makes one stack, however often and from whichever dialog.
 */
const draft = { yaml: EXAMPLE, body: "", key: "" };
/** @type {Field[]} */
const FIELDS = ["ports", "ttl", "labels"];
const ANY_PORT = [{ container_port: 80, protocol: "TCP" }];

/**
 * Open the dialog; `created` gets the new stack. `template` is the name of the one that is chosen at first.
 *
 * @param {(stack: StackData) => void} created
 */
export function openCreate(created, template = "") {
  new Create(created, template).show();
}

class Create {
  #busy = false;
  #portsTyped = false;

  /** @type {Map<string, Template>} */
  #templates = new Map();

  /**
   * @param {(stack: StackData) => void} created
   * @param {string} wanted
   */
  constructor(created, wanted) {
    this.created = created;
    this.wanted = wanted;
    this.box = dialog("New stack", { class: "create", "data-keep": "yes" });
    this.yaml = h("textarea", {
      id: "yaml",
      spellcheck: "false",
      autocapitalize: "off",
      autocomplete: "off",
      wrap: "off",
      "aria-describedby": "mistakes",
    });
    this.yaml.value = draft.yaml;
    this.from = h("select", { id: "create-from" }, h("option", { value: "" }, "YAML"));
    this.fromLabel = h("label", { for: "create-from", class: "from", hidden: true }, "From", this.from);
    this.about = h("p", { class: "quiet", hidden: true });
    this.yamlLabel = h("label", { for: "yaml" }, "Pod, as YAML");
    this.gutter = h("div", { class: "gutter", "aria-hidden": "true" });
    this.editor = h("div", { class: "editor" }, this.gutter, this.yaml);
    this.ports = field("ports", "Ports", "80/tcp, 53/udp");
    this.ttl = field("ttl", "Lives for", "default");
    this.labels = field("labels", "Labels", "team=7, player=3");
    this.mistakes = h("div", { id: "mistakes", class: "mistakes", role: "alert" });
    this.verdict = h("p", { class: "verdict", role: "status" });
    this.check = button("Check", () => this.#send(true));
    this.submit = h("button", { type: "submit", class: "primary" }, "Create");
  }

  show() {
    const form = h(
      "form",
      { autocomplete: "off" },
      this.fromLabel,
      this.about,
      this.yamlLabel,
      this.editor,
      this.mistakes,
      h("div", { class: "fields" }, this.ports.label, this.ttl.label, this.labels.label),
      h("div", { class: "buttons foot" }, this.verdict, h("span", { class: "spring" }), this.check, this.submit),
    );
    this.yaml.addEventListener("input", () => this.#typed());
    this.yaml.addEventListener("scroll", () => this.#align());
    this.yaml.addEventListener("keydown", (event) => this.#keys(event));
    this.ports.input.addEventListener("input", () => {
      this.#portsTyped = true;
    });
    this.from.addEventListener("change", () => this.#choose());
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send(false);
    });
    this.box.append(form);
    this.box.addEventListener("close", () => {
      draft.yaml = this.yaml.value;
    });
    this.#typed();
    this.box.showModal();
    this.yaml.focus();
    this.yaml.setSelectionRange(0, 0);
    this.#offer();
  }

  /** Offer the templates that there are. */
  async #offer() {
    try {
      for (const each of (await ask("GET", "/templates")).templates) this.#templates.set(each.name, each);
    } catch {
      return; // YAML is left
    }
    const names = [...this.#templates.keys()];
    this.from.append(...names.map((name) => h("option", { value: name }, `template ${name}`)));
    this.fromLabel.hidden = names.length === 0;
    if (!this.#templates.has(this.wanted)) return;
    this.from.value = this.wanted;
    this.#choose();
  }

  get #template() {
    return this.#templates.get(this.from.value);
  }

  /** Ask for YAML and ports unless a template has them. */
  #choose() {
    const template = this.#template;
    for (const each of [this.yamlLabel, this.editor, this.ports.label]) each.hidden = Boolean(template);
    this.about.hidden = !template;
    if (template) say(this.about, aboutOf(template));
    this.ttl.input.placeholder = template?.ttl ?? "default";
    this.#clear();
    say(this.verdict, "");
    if (template) this.ttl.input.focus();
    else this.yaml.focus();
  }

  #typed() {
    if (!this.#portsTyped) this.ports.input.value = declared(this.yaml.value).join(", ");
    this.#clear();
    say(this.verdict, "");
  }

  #clear() {
    this.#number(new Set());
    fill(this.mistakes);
    for (const name of FIELDS) this[name].input.removeAttribute("aria-invalid");
  }

  /** @param {KeyboardEvent} event */
  #keys(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.#send(false);
  }

  /** @param {Set<number | null>} wrong */
  #number(wrong) {
    const count = this.yaml.value.split("\n").length;
    const numbers = Array.from({ length: count }, (_, index) =>
      h("span", { class: wrong.has(index + 1) ? "wrong" : null }, String(index + 1)),
    );
    fill(this.gutter, numbers);
    this.#align();
  }

  /** The numbers stand beside their lines. */
  #align() {
    this.gutter.scrollTop = this.yaml.scrollTop;
  }

  /** @param {boolean} dry */
  async #send(dry) {
    if (this.#busy) return;
    this.#occupied(true, dry ? "checking …" : "creating …");
    try {
      const body = this.#body();
      const answer = dry
        ? await ask("POST", "/stacks?dry_run=true", { body })
        : await ask("POST", "/stacks", { body, headers: { "Idempotency-Key": keyOf(body) } });
      this.#clear();
      if (dry) {
        say(
          this.verdict,
          `Would be accepted: ${answer.requested_cpu_milli}m CPU, ${Math.round(answer.requested_memory_bytes / 2 ** 20)} MiB.`,
        );
        return;
      }
      draft.body = "";
      tell(`${answer.stack_id} is ${answer.status}`);
      this.box.close();
      this.created(answer);
    } catch (error) {
      await this.#refused(error);
      say(this.verdict, "");
    } finally {
      this.#occupied(false);
    }
  }

  /** @param {boolean} busy */
  #occupied(busy, words = "") {
    this.#busy = busy;
    this.check.disabled = this.submit.disabled = busy;
    if (busy) say(this.verdict, words);
  }

  /** @param {unknown} error */
  async #refused(error) {
    const text = this.yaml.value;
    const found = mistakes(error);
    // The API looks at the fields first, and says nothing of the YAML while something is wrong with them.
    if (!this.#template && found.every((each) => each.field)) found.push(...(await this.#ofSpec(text)));
    this.#show(found.sort(byLine));
  }

  /**
   * What is wrong with the YAML alone.
   *
   * @param {string} text
   * @returns {Promise<Mistake[]>}
   */
  async #ofSpec(text) {
    try {
      await ask("POST", "/stacks?dry_run=true", { body: { target_port: ANY_PORT, pod_spec: text } });
    } catch (error) {
      if (error instanceof Refusal && error.status === 400) return mistakes(error).filter((each) => !each.field);
    }
    return [];
  }

  /** @param {Mistake[]} found */
  #show(found) {
    this.#number(new Set(found.map((each) => each.line)));
    const rows = found.map(({ line, field, text }) => {
      if (line) return row(`line ${line}`, () => this.#goto(line), text, line);
      if (field) return row(this[field].name, () => this[field].input.focus(), text);
      return h("li", {}, h("span", {}, text));
    });
    const count = `${found.length} ${found.length === 1 ? "problem" : "problems"}`;
    fill(this.mistakes, h("p", { class: "number" }, count), h("ul", {}, rows));
    for (const name of FIELDS) {
      this[name].input.setAttribute("aria-invalid", String(found.some((each) => each.field === name)));
    }
    const first = found[0];
    if (first?.line) this.#goto(first.line);
    else if (first?.field) this[first.field].input.focus();
  }

  /** @param {number} line */
  #goto(line) {
    const before =
      this.yaml.value
        .split("\n")
        .slice(0, line - 1)
        .join("\n").length + (line > 1 ? 1 : 0);
    const end = this.yaml.value.indexOf("\n", before);
    this.yaml.focus();
    this.yaml.setSelectionRange(before, end < 0 ? this.yaml.value.length : end);
    const height = Number.parseFloat(getComputedStyle(this.yaml).lineHeight) || 20;
    this.yaml.scrollTop = Math.max(0, (line - 4) * height);
  }

  #body() {
    /** @type {Record<string, unknown>} */
    const body = this.#template
      ? { template: this.#template.name }
      : { target_port: ports(this.ports.input.value), pod_spec: this.yaml.value };
    const ttl = this.ttl.input.value.trim();
    const labels = pairs(this.labels.input.value);
    if (ttl) body.ttl = ttl;
    if (Object.keys(labels).length) body.labels = labels;
    return body;
  }
}

/**
 * The Idempotency-Key of a request: another one for each body, and for each stack that is meant.
 *
 * @param {unknown} body
 */
function keyOf(body) {
  const text = JSON.stringify(body);
  if (draft.body !== text) {
    draft.body = text;
    draft.key = crypto.getRandomValues(new Uint32Array(4)).join("-");
  }
  return draft.key;
}

/**
 * What a template makes, in a sentence.
 *
 * @param {Template} template
 */
function aboutOf({ target_port: published, ttl, labels, generates }) {
  const shown = published.map(({ container_port: port, protocol }) => `${port}/${protocol.toLowerCase()}`);
  const named = Object.entries(labels).map(([name, value]) => `${name}=${value}`);
  return [
    `Publishes ${shown.join(", ")} and lives for ${ttl}.`,
    named.length ? `Labels: ${named.join(", ")}.` : "",
    generates.length ? `Generated for each stack: ${generates.join(", ")}.` : "",
  ]
    .filter(Boolean)
    .join(" ");
}

/**
 * What the API says is wrong, in its order: that of the lines; what is in no line comes last.
 *
 * @param {unknown} error
 * @returns {Mistake[]}
 */
function mistakes(error) {
  const reasons = error instanceof Refusal ? error.body?.reasons : null;
  if (!Array.isArray(reasons)) return [{ line: null, field: null, text: sentence(error) }];
  return reasons.map(({ path, line, text }) => {
    const field = fieldOf(path);
    return { line, field, text: path && path !== field ? `${path}: ${text}` : text };
  });
}

/**
 * The field beside the YAML that a path is about.
 *
 * @param {string} path
 * @returns {Field | null}
 */
function fieldOf(path) {
  if (path.startsWith("target_port")) return "ports";
  return path === "ttl" || path === "labels" ? path : null;
}

/**
 * Where a mistake comes among others.
 *
 * @param {Mistake} one
 * @param {Mistake} other
 */
function byLine(one, other) {
  return (one.line ?? Number.MAX_SAFE_INTEGER) - (other.line ?? Number.MAX_SAFE_INTEGER);
}

/**
 * A mistake, with a button that leads to it.
 *
 * @param {string} name
 * @param {() => void} go
 * @param {string} text
 * @param {number} [line]
 */
function row(name, go, text, line) {
  return h("li", { "data-line": line }, button(name, go, { class: "plain line" }), h("span", {}, text));
}

/**
 * @param {string} name
 * @param {string} text
 * @param {string} placeholder
 */
function field(name, text, placeholder) {
  const input = h("input", {
    type: "text",
    id: `create-${name}`,
    placeholder,
    autocomplete: "off",
    spellcheck: "false",
  });
  return { name: text, input, label: h("label", { for: `create-${name}` }, text, input) };
}

/**
 * The ports that a YAML text declares, as they are typed.
 *
 * @param {string} text
 */
function declared(text) {
  const found = [...text.matchAll(/containerPort"?:\s*(\d+)(?:\s*,?\s*\n?\s*"?protocol"?:\s*"?(\w+))?/g)];
  return [...new Set(found.map(([, port, protocol]) => `${port}/${(protocol ?? "TCP").toLowerCase()}`))];
}

/** @param {string} text */
function ports(text) {
  return text
    .split(/[\s,]+/)
    .filter(Boolean)
    .map((each) => {
      const [port, protocol = "tcp"] = each.split("/");
      return { container_port: /^\d+$/.test(port ?? "") ? Number(port) : port, protocol: protocol.toUpperCase() };
    });
}

/** @param {string} text */
function pairs(text) {
  const each = text
    .split(/[\s,]+/)
    .filter(Boolean)
    .map((pair) => {
      const equals = pair.indexOf("=");
      return equals < 0 ? [pair, ""] : [pair.slice(0, equals), pair.slice(equals + 1)];
    });
  return Object.fromEntries(each);
}
