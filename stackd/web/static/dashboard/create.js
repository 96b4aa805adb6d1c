// Creating a stack from YAML or a template: the API checks it, and what it refuses is shown at the line or field.

/** @import { Template } from "./glance.js" */
/** @import { StackData } from "./stacks.js" */

import { button, h, say, show } from "../shared/dom.js";
import { ask, Refusal, sentence } from "./api.js";
import { pairs } from "./arrange.js";
import { dialog, tell } from "./dialogs.js";

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
 * @typedef {"ports" | "ttl" | "labels"} Field
 * @typedef {{ line: number | null, field: Field | null, text: string }} Mistake
 */

/**
 * What was typed last stays for the next time. A create whose answer was lost is sent again under the same key, so that
 * it makes one stack, however often and from whichever dialog.
 */
const draft = { yaml: EXAMPLE, body: "", key: "" };
/** @type {Record<Field, [string, string]>} */
const FIELDS = {
  ports: ["Ports", "all; or 80/tcp, 53/udp"],
  ttl: ["Lives for", "default"],
  labels: ["Labels", "player=7, event=a"],
};
const FIELD_NAMES = /** @type {Field[]} */ (Object.keys(FIELDS));
const ANY_PORT = [{ container_port: 80, protocol: "TCP" }];

/** The dialog; `created` gets the new stack, `wanted` is the template that is chosen at first. */
export class Create {
  /** @type {Map<string, Template>} */
  #templates = new Map();

  /** @param {(stack: StackData) => void} created @param {string} wanted */
  constructor(created, wanted = "") {
    this.created = created;
    this.wanted = wanted;
    this.box = dialog("New stack", { class: "create", "data-keep": "yes" });
    const plain = { spellcheck: "false", autocapitalize: "off", autocomplete: "off" };
    this.yaml = h("textarea", { id: "yaml", wrap: "off", "aria-describedby": "mistakes", ...plain });
    this.yaml.value = draft.yaml;
    this.from = h("select", {}, h("option", { value: "" }, "YAML"));
    this.fromLabel = h("label", { class: "row", hidden: true }, "From", this.from);
    this.about = h("p", { class: "said", hidden: true });
    this.yamlLabel = h("label", { for: "yaml" }, "Pod, as YAML");
    const input = (/** @type {Field} */ name) => h("input", { type: "text", placeholder: FIELDS[name][1], ...plain });
    this.inputs = { ports: input("ports"), ttl: input("ttl"), labels: input("labels") };
    this.mistakes = h("div", { id: "mistakes", class: "mistakes", role: "alert" });
    this.verdict = h("p", { class: "verdict quiet", role: "status" });
    this.check = button("Check", () => this.#send(true));
    this.submit = h("button", { type: "submit", class: "primary" }, "Create");
    const labels = FIELD_NAMES.map((name) => h("label", {}, FIELDS[name][0], this.inputs[name]));
    const form = h(
      "form",
      { autocomplete: "off" },
      this.fromLabel,
      this.about,
      this.yamlLabel,
      this.yaml,
      this.mistakes,
      h("div", { class: "fields" }, labels),
      h("div", { class: "buttons foot" }, this.verdict, h("span", { class: "spring" }), this.check, this.submit),
    );
    this.yaml.addEventListener("input", () => this.#clear());
    this.yaml.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.#send(false);
    });
    this.from.addEventListener("change", () => this.#choose());
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send(false);
    });
    this.box.append(form);
    this.box.addEventListener("close", () => (draft.yaml = this.yaml.value));
    this.#clear();
    this.box.showModal();
    this.yaml.focus();
    this.yaml.setSelectionRange(0, 0);
    this.#offer();
  }

  /** Offer the templates that there are. */
  async #offer() {
    try {
      /** @type {Template[]} */
      const all = (await ask("GET", "/templates")).templates;
      for (const each of all) if (!each.shared) this.#templates.set(each.name, each);
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
    for (const each of [this.yamlLabel, this.yaml, this.inputs.ports.parentElement]) {
      if (each) each.hidden = Boolean(template);
    }
    this.about.hidden = !template;
    if (template) say(this.about, aboutOf(template));
    this.inputs.ttl.placeholder = template?.ttl ?? "default";
    this.#clear();
    if (template) this.inputs.ttl.focus();
    else this.yaml.focus();
  }

  #clear() {
    show(this.mistakes);
    for (const input of Object.values(this.inputs)) input.removeAttribute("aria-invalid");
    say(this.verdict, "");
  }

  /** @param {boolean} dry */
  async #send(dry) {
    if (this.submit.disabled) return;
    this.check.disabled = this.submit.disabled = true;
    say(this.verdict, dry ? "checking …" : "creating …");
    try {
      const body = this.#body();
      const answer = dry
        ? await ask("POST", "/stacks?dry_run=true", { body })
        : await ask("POST", "/stacks", { body, headers: { "Idempotency-Key": keyOf(body) } });
      this.#clear();
      if (dry) {
        const memory = Math.round(answer.requested_memory_bytes / 2 ** 20);
        say(this.verdict, `Would be accepted: ${answer.requested_cpu_milli}m CPU, ${memory} MiB.`);
        return;
      }
      draft.body = "";
      tell(`${answer.stack_id} is ${answer.status}`);
      this.box.close();
      this.created(answer);
    } catch (error) {
      const found = mistakes(error);
      // The API looks at the fields first, and says nothing of the YAML while something is wrong with them.
      if (!this.#template && found.every((each) => each.field)) found.push(...(await this.#ofSpec()));
      this.#show(found.sort((one, other) => (one.line ?? Infinity) - (other.line ?? Infinity) || 0));
      say(this.verdict, "");
    } finally {
      this.check.disabled = this.submit.disabled = false;
    }
  }

  /** What is wrong with the YAML alone. */
  async #ofSpec() {
    try {
      const body = { target_port: ANY_PORT, pod_spec: this.yaml.value };
      await ask("POST", "/stacks?dry_run=true", { body });
    } catch (error) {
      if (error instanceof Refusal && error.status === 400) return mistakes(error).filter((each) => !each.field);
    }
    return [];
  }

  /** @param {Mistake[]} found */
  #show(found) {
    const rows = found.map((each) => {
      const name = each.line ? `line ${each.line}` : each.field && FIELDS[each.field][0];
      const link = name && button(name, () => this.#lead(each), { class: "plain" });
      return h("li", { class: "row", "data-line": each.line }, link, h("span", {}, each.text));
    });
    const count = h("p", {}, h("b", {}, `${found.length} ${found.length === 1 ? "problem" : "problems"}`));
    this.mistakes.replaceChildren(count, h("ul", {}, rows));
    for (const [name, input] of Object.entries(this.inputs))
      input.setAttribute("aria-invalid", String(found.some((each) => each.field === name)));
    if (found[0]) this.#lead(found[0]);
  }

  /** Lead to what is wrong. @param {Mistake} mistake */
  #lead({ line, field }) {
    if (field) this.inputs[field].focus();
    if (!line) return;
    const lines = this.yaml.value.split("\n");
    const start = lines.slice(0, line - 1).reduce((sum, each) => sum + each.length + 1, 0);
    this.yaml.focus();
    this.yaml.setSelectionRange(start, start + (lines[line - 1]?.length ?? 0));
    this.yaml.scrollTop = Math.max(0, (line - 4) * (Number.parseFloat(getComputedStyle(this.yaml).lineHeight) || 20));
  }

  #body() {
    /** @type {Record<string, unknown>} */
    const body = this.#template ? { template: this.#template.name } : { pod_spec: this.yaml.value };
    const ports = words(this.inputs.ports.value).map(port);
    if (ports.length && !this.#template) body.target_port = ports;
    const ttl = this.inputs.ttl.value.trim();
    const labels = pairsOf(this.inputs.labels.value);
    if (ttl) body.ttl = ttl;
    if (Object.keys(labels).length) body.labels = labels;
    return body;
  }
}

/** The Idempotency-Key of a request: another one for each body, and for each stack that is meant. @param {unknown} body */
function keyOf(body) {
  const text = JSON.stringify(body);
  if (draft.body !== text) {
    draft.body = text;
    draft.key = crypto.getRandomValues(new Uint32Array(4)).join("-");
  }
  return draft.key;
}

/** What a template makes, in a sentence. @param {Template} template */
function aboutOf({ target_port: published, ttl, labels, generates, title, category, description }) {
  const shown = published.map(({ container_port: port, protocol }) => `${port}/${protocol.toLowerCase()}`);
  const named = pairs(labels);
  const parts = [
    title && `${[title, category].filter(Boolean).join(", ")}.`,
    `Publishes ${shown.join(", ")} and lives for ${ttl}.`,
    named.length && `Labels: ${named.join(", ")}.`,
    generates.length && `Generated for each stack: ${generates.join(", ")}.`,
  ];
  return [parts.filter(Boolean).join(" "), description].filter(Boolean).join("\n\n");
}

/** What the API says is wrong, in its order. @param {unknown} error @returns {Mistake[]} */
function mistakes(error) {
  const reasons = error instanceof Refusal ? error.body?.reasons : null;
  if (!Array.isArray(reasons)) return [{ line: null, field: null, text: sentence(error) }];
  return reasons.map(({ path, line, text }) => {
    const named = path === "ttl" ? path : path.startsWith("labels") ? "labels" : null;
    const field = path.startsWith("target_port") ? "ports" : named;
    return { line, field, text: path ? `${path}: ${text}` : text };
  });
}

/** Labels, as they are typed. @param {string} text @returns {Record<string, string>} */
export const pairsOf = (text) => Object.fromEntries(words(text).map((pair) => [pair, ""].join("=").split("=", 2)));

/** @param {string} text */
const words = (text) => text.split(/[\s,]+/).filter(Boolean);

/** @param {string} text */
function port(text) {
  const [number = "", protocol = "tcp"] = text.split("/");
  return { container_port: /^\d+$/.test(number) ? Number(number) : number, protocol: protocol.toUpperCase() };
}
