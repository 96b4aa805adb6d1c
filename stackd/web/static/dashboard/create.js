// Creating a stack from YAML: the API checks it, and what it refuses is shown at the line.

import { ask } from "./api.js";
import { dialog } from "./dialogs.js";
import { fill, h, say } from "../shared/dom.js";
import { mistakes } from "./locate.js";
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

/** Open the dialog; `created` gets the new stack. */
export function openCreate(created) {
  new Create(created).show();
}

class Create {
  #busy = false;
  #portsTyped = false;

  constructor(created) {
    this.created = created;
    this.box = dialog("New stack", { class: "create", "data-keep": "yes" });
    this.yaml = h("textarea", { id: "yaml", spellcheck: "false", autocapitalize: "off", autocomplete: "off", wrap: "off", "aria-describedby": "mistakes" });
    this.yaml.value = EXAMPLE;
    this.gutter = h("div", { class: "gutter", "aria-hidden": "true" });
    this.ports = field("ports", "Ports", "80/tcp, 53/udp");
    this.ttl = field("ttl", "Lives for", "default");
    this.labels = field("labels", "Labels", "team=7, player=3");
    this.mistakes = h("ul", { id: "mistakes", class: "mistakes", role: "alert" });
    this.verdict = h("p", { class: "verdict", role: "status" });
    this.check = h("button", { type: "button" }, "Check");
    this.submit = h("button", { type: "submit", class: "primary" }, "Create");
  }

  show() {
    const form = h(
      "form",
      { autocomplete: "off" },
      h("label", { for: "yaml" }, "Pod, as YAML"),
      h("div", { class: "editor" }, this.gutter, this.yaml),
      this.mistakes,
      h("div", { class: "fields" }, this.ports.label, this.ttl.label, this.labels.label),
      h("div", { class: "buttons" }, this.verdict, h("span", { class: "spring" }), this.check, this.submit),
    );
    this.yaml.addEventListener("input", () => this.#typed());
    this.yaml.addEventListener("scroll", () => (this.gutter.scrollTop = this.yaml.scrollTop));
    this.yaml.addEventListener("keydown", (event) => this.#keys(event));
    this.ports.input.addEventListener("input", () => (this.#portsTyped = true));
    this.check.addEventListener("click", () => this.#send(true));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send(false);
    });
    this.box.append(form);
    this.#typed();
    this.box.showModal();
    this.yaml.focus();
    this.yaml.setSelectionRange(0, 0);
  }

  #typed() {
    if (!this.#portsTyped) this.ports.input.value = declared(this.yaml.value).join(", ");
    this.#number(new Set());
    fill(this.mistakes);
    say(this.verdict, "");
  }

  #keys(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.#send(false);
  }

  #number(wrong) {
    const count = this.yaml.value.split("\n").length;
    const numbers = Array.from({ length: count }, (_, index) => h("span", { class: wrong.has(index + 1) ? "wrong" : null }, String(index + 1)));
    fill(this.gutter, numbers);
    this.gutter.scrollTop = this.yaml.scrollTop;
  }

  async #send(dry) {
    if (this.#busy) return;
    this.#occupied(true, dry ? "checking …" : "creating …");
    try {
      const answer = await ask("POST", dry ? "/stacks?dry_run=true" : "/stacks", { body: this.#body() });
      this.#number(new Set());
      fill(this.mistakes);
      if (dry) {
        say(this.verdict, `Would be accepted: ${answer.requested_cpu_milli}m CPU, ${Math.round(answer.requested_memory_bytes / 2 ** 20)} MiB.`);
        return;
      }
      tell(`${answer.stack_id} is ${answer.status}`);
      this.box.close();
      this.created(answer);
    } catch (error) {
      say(this.verdict, "");
      this.#refused(error.message);
    } finally {
      this.#occupied(false);
    }
  }

  #occupied(busy, words) {
    this.#busy = busy;
    this.check.disabled = this.submit.disabled = busy;
    if (busy) say(this.verdict, words);
  }

  #refused(sentence) {
    const found = mistakes(sentence, this.yaml.value);
    this.#number(new Set(found.map((each) => each.line)));
    const rows = found.map(({ line, text }) => {
      if (line === null) return h("li", {}, h("span", {}, text));
      const go = h("button", { type: "button", class: "plain line" }, `line ${line}`);
      go.addEventListener("click", () => this.#goto(line));
      return h("li", { "data-line": line }, go, h("span", {}, text));
    });
    fill(this.mistakes, rows);
    const first = found.find((each) => each.line !== null);
    if (first) this.#goto(first.line);
  }

  #goto(line) {
    const before = this.yaml.value.split("\n").slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0);
    const end = this.yaml.value.indexOf("\n", before);
    this.yaml.focus();
    this.yaml.setSelectionRange(before, end < 0 ? this.yaml.value.length : end);
    const height = Number.parseFloat(getComputedStyle(this.yaml).lineHeight) || 20;
    this.yaml.scrollTop = Math.max(0, (line - 4) * height);
  }

  #body() {
    const body = { target_port: ports(this.ports.input.value), pod_spec: this.yaml.value };
    const ttl = this.ttl.input.value.trim();
    const labels = pairs(this.labels.input.value);
    if (ttl) body.ttl = ttl;
    if (Object.keys(labels).length) body.labels = labels;
    return body;
  }
}

function field(name, text, placeholder) {
  const input = h("input", { type: "text", id: `create-${name}`, placeholder, autocomplete: "off", spellcheck: "false" });
  return { input, label: h("label", { for: `create-${name}` }, text, input) };
}

/** The ports that a YAML text declares, as they are typed. */
function declared(text) {
  const found = [...text.matchAll(/containerPort:\s*(\d+)(?:\s*,?\s*\n?\s*protocol:\s*"?(\w+))?/g)];
  return [...new Set(found.map(([, port, protocol]) => `${port}/${(protocol ?? "TCP").toLowerCase()}`))];
}

function ports(text) {
  return text.split(/[\s,]+/).filter(Boolean).map((each) => {
    const [port, protocol = "tcp"] = each.split("/");
    return { container_port: Number(port), protocol: protocol.toUpperCase() };
  });
}

function pairs(text) {
  const each = text.split(/[\s,]+/).filter(Boolean).map((pair) => {
    const equals = pair.indexOf("=");
    return equals < 0 ? [pair, ""] : [pair.slice(0, equals), pair.slice(equals + 1)];
  });
  return Object.fromEntries(each);
}
