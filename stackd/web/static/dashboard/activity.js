// Who did what, when, to how many stacks, and what came of it.

/** @import { Job } from "./bulk.js" */
/** @import { Stacks } from "./stacks.js" */

import { button, h, say, show } from "../shared/dom.js";
import { ask, sentence } from "./api.js";
import { pairs } from "./arrange.js";
import { cameOf } from "./bulk.js";
import { dialog } from "./dialogs.js";
import { WORDS } from "./stacks.js";
import { plural } from "./table.js";
import { stamp } from "./times.js";

const PAUSE = 300; // after what is typed
const AGAIN = 3_000; // while a job goes on, or its outcome may change
const PAGE = "100";

/**
 * What a key asked for, as the API describes it: about one stack, a batch job, or what concerns the operator.
 *
 * @typedef {import("./stacks.js").Schemas["Activity"] & Pick<Job, "outcome" | "common" | "template">} Deed
 * @typedef {{ stack_id: string, outcome: string, error?: string, labels?: Record<string, string> }} Result
 */

/** Open the list; `open` shows a stack. @param {Stacks} stacks @param {(id: string) => void} open */
export function openActivity(stacks, open) {
  const box = dialog("Activity", { class: "plan" });
  const hint = "what a row shows, such as: restart misc-1";
  const field = h("input", { type: "search", placeholder: hint, "aria-label": "Find by key, action, stack or label" });
  const state = h("p", { class: "quiet", role: "status" });
  const list = h("ol", { class: "details sunken activity", tabindex: "0", "aria-label": "Activity, the latest first" });
  let [cursor, asked] = ["", 0];
  /** @type {number | undefined} */
  let timer;
  const more = button("Older", () => load(), { hidden: true });

  /** Show what was asked for next before what is shown. */
  async function load() {
    const mine = ++asked;
    const query = field.value.split(/\s+/).filter(Boolean).map(parameter);
    const page = new URLSearchParams([...query, ["limit", PAGE], ...(cursor ? [["cursor", cursor]] : [])]);
    try {
      /** @type {{ activity: Deed[], next_cursor: string | null }} */
      const answer = await ask("GET", `/activity?${page}`);
      if (mine !== asked) return;
      if (!cursor) show(list);
      cursor = answer.next_cursor ?? "";
      list.append(...answer.activity.map(entry));
      say(state, list.children.length ? "" : "Nothing like this was asked for.");
    } catch (error) {
      say(state, sentence(error));
    }
    more.hidden = !cursor;
  }

  /** A line about one stack leads to it; one about a job can be opened. @param {Deed} deed */
  function entry(deed) {
    const { job_id: job, failed, status } = deed;
    const wrong = { class: (failed > 0 || status === "failed") && "error" };
    if (!job) return h("li", wrong, line(deed));
    const [summary, body] = [h("summary", {}, line(deed)), h("div")];
    const details = h("details", {}, summary, body);
    details.addEventListener("toggle", () => details.open && results(deed, body));
    follow(deed, summary);
    return h("li", wrong, details);
  }

  /** @param {Deed} deed */
  function line({ at, by, action, ttl, stack_id: id, labels, common, template, message, count, ...job }) {
    const one = stacks.get(id ?? "")?.labelled ?? pairs(labels); // it may be gone
    const shared = pairs(common ?? labels);
    const of = template && !shared.some((each) => each.endsWith(`=${template}`)) && `template ${template}`;
    const about = id ? [...one, id] : [`${job.total} ${plural(job.total)}`, ...shared, of];
    const what = AUDIT.has(action) ? "" : about.filter(Boolean).join(" ");
    const result = AUDIT.has(action) || (id && !job.failed) ? "" : resultOf({ action, ...job });
    const said = [result, message && `${message}${count ? ` (${count} times)` : ""}`].filter(Boolean).join(": ");
    return [
      stamp(at),
      " ",
      h("b", {}, by),
      ` ${action}${ttl ? ` ${ttl}` : ""} `,
      id ? button(what, () => lead(id), { class: "plain mono" }) : what,
      said && h("span", { class: "quiet" }, ` ${said}`),
    ];
  }

  /** @param {string} id */
  function lead(id) {
    box.close();
    open(id);
  }

  /** Ask again how a job goes on, as long as that may change. @param {Deed} deed @param {HTMLElement} summary */
  function follow(deed, summary) {
    if (["completed", "failed"].includes(deed.status) && deed.outcome?.final !== false) return;
    setTimeout(async () => {
      if (!box.isConnected) return;
      const job = await ask("GET", `/stacks/batch/${encodeURIComponent(deed.job_id ?? "")}`).catch(() => ({}));
      show(summary, ...line({ ...deed, ...job }));
      if (summary.isConnected) follow({ ...deed, ...job }, summary);
    }, AGAIN);
  }

  /** Show each stack of a job, and what came of it. @param {Deed} deed @param {HTMLElement} body */
  async function results({ job_id: job }, body) {
    try {
      /** @type {{ results: Result[] }} */
      const { results: all } = await ask("GET", `/stacks/batch/${encodeURIComponent(job ?? "")}?results=true`);
      const rows = all.map(({ stack_id: id, outcome, error, labels }) => {
        const stack = stacks.get(id);
        const name = [...(stack?.labelled ?? pairs(labels)), id].join(" ");
        const reason = stack?.status_reason && ` (${stack.status_reason})`;
        const said = error ?? (stack ? `${outcome}; now ${WORDS[stack.status]}${reason ?? ""}` : outcome);
        return h("li", {}, id ? button(name, () => lead(id), { class: "plain mono" }) : name, ` ${said}`);
      });
      show(body, h("ul", {}, rows));
    } catch (error) {
      show(body, h("p", {}, sentence(error)));
    }
  }

  field.addEventListener("input", () => {
    clearTimeout(timer);
    asked += 1; // an answer that is under way is to another question
    cursor = "";
    timer = setTimeout(load, PAUSE);
  });
  box.append(h("div", {}, field, state, list, more));
  box.showModal();
  field.focus();
  load();
}

/** What a job has done. @param {Pick<Deed, "action" | "status" | "done" | "failed" | "not_found" | "outcome">} job */
function resultOf({ status, done, failed, not_found: gone, outcome }) {
  const counts = [`${done} done`, gone && `${gone} gone already`, failed && `${failed} failed`]
    .filter(Boolean)
    .join(", ");
  const running = status !== "completed" && status !== "failed" && status;
  return [running, counts, outcome && cameOf(outcome)].filter(Boolean).join(": ");
}

const AUDIT = new Set(["refused", "reload", "keys", "takeover", "sign_in", "template", "link"]);
const ID = /^stack-[0-9a-f]{16}$/;

/** What a word of the filter asks the API for: with a label or a stack, it finds jobs about many as well. @param {string} word */
function parameter(word) {
  return [word.includes("=") ? "label" : ID.test(word) ? "stack" : "find", word];
}
