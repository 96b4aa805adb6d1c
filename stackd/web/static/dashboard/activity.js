// Who did what, when, to how many stacks, and with which result.

/** @import { Stacks } from "./stacks.js" */

import { button, h, say, show } from "../shared/dom.js";
import { ask, sentence } from "./api.js";
import { dialog } from "./dialogs.js";
import { plural } from "./table.js";
import { clock, full } from "./times.js";

const PAUSE = 300; // after what is typed

/**
 * What a key asked for, as the API describes it: about one stack, a batch job, or what concerns the operator.
 *
 * @typedef {import("./stacks.js").Schemas["Activity"]} Deed
 */

/** Open the list; `open` shows a stack. @param {Stacks} stacks @param {(id: string) => void} open */
export function openActivity(stacks, open) {
  const box = dialog("Activity", { class: "plan" });
  const hint = "key, action, stack id or label, such as: extend team=7";
  const field = h("input", { type: "search", placeholder: hint, "aria-label": "Find by key, action, stack or label" });
  const state = h("p", { class: "quiet", role: "status" });
  const list = h("ol", { class: "details sunken", tabindex: "0", "aria-label": "Activity, the latest first" });
  let cursor = "";
  /** @type {number | undefined} */
  let timer;
  const more = button("Older", () => load(), { hidden: true });

  async function load() {
    const words = field.value.split(/\s+/).filter(Boolean);
    const query = new URLSearchParams(words.map(parameter));
    if (cursor) query.set("cursor", cursor);
    try {
      /** @type {{ activity: Deed[], next_cursor: string | null }} */
      const { activity, next_cursor: next } = await ask("GET", `/activity?${query}`);
      if (!cursor) show(list);
      list.append(...activity.map(entry));
      cursor = next ?? "";
      say(state, list.children.length ? "" : "Nothing like this was asked for.");
    } catch (error) {
      say(state, sentence(error));
    }
    more.hidden = !cursor;
  }

  /** @param {Deed} deed */
  function entry({ at, by, action, ttl, stack_id: id, labels, message, ...job }) {
    const { status, total, done, failed, not_found: gone, count } = job;
    const isAudit = AUDIT.has(action);
    const lead = () => {
      box.close();
      open(id ?? "");
    };
    const named = Object.entries(labels ?? {}).map(([name, value]) => `${name}=${value}`);
    const one = stacks.get(id ?? "")?.labelled ?? named; // it may be gone
    const what = isAudit ? "" : [id ? "" : `${total} ${plural(total)}`, ...one, id].filter(Boolean).join(" ");
    const results = [`${done} done`, gone && `${gone} gone already`, failed && `${failed} failed`].filter(Boolean);
    const running = status !== "completed" && status !== "failed" && status;
    const times = count ? ` (${count} times)` : "";
    const result =
      isAudit || (id && !failed)
        ? `${message ?? ""}${times}`
        : [running, results.join(", "), message].filter(Boolean).join(": ");
    return h(
      "li",
      { class: (failed > 0 || status === "failed") && "error" },
      h("time", { class: "num quiet", datetime: at, title: full(at) }, clock(at)),
      " ",
      h("b", {}, by),
      ` ${action}${ttl ? ` ${ttl}` : ""} `,
      id ? button(what, lead, { class: "plain mono" }) : what,
      result && h("span", { class: "quiet" }, ` ${result}`),
    );
  }

  field.addEventListener("input", () => {
    clearTimeout(timer);
    cursor = "";
    timer = setTimeout(load, PAUSE);
  });
  box.append(h("div", {}, field, state, list, more));
  box.showModal();
  field.focus();
  load();
}

const AUDIT = new Set(["refused", "reload", "keys", "takeover", "template"]);
const ACTIONS = new Set(["create", "extend", "restart", "stop", "start", "delete", ...AUDIT]);

/** What a word of the filter asks for. @param {string} word */
function parameter(word) {
  if (word.includes("=")) return ["label", word];
  if (word.startsWith("stack-")) return ["stack", word];
  return [ACTIONS.has(word) ? "action" : "key", word];
}
