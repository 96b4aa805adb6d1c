// The bar at the bottom: what is selected, and how far a batch delete has got.

/** @import { Selection } from "./selection.js" */

import { button, fill, h, say } from "../shared/dom.js";
import { sentence } from "./api.js";
import { tell } from "./toasts.js";

/**
 * A batch-delete job as the API tells of it.
 *
 * @typedef {object} Job
 * @property {string} job_id
 * @property {"queued" | "running" | "completed" | "failed"} status
 * @property {number} total
 * @property {number} deleted
 * @property {number} not_found
 * @property {number} failed
 * @property {{ stack_id: string, error: string }[]} [errors]
 */

export class Progress {
  #busy = 0;

  /**
   * @param {HTMLElement} place
   * @param {Selection} selection
   */
  constructor(place, selection) {
    this.place = place;
    this.selection = selection;
    this.count = h("span", { role: "status" });
    this.remove = h("button", { type: "button", class: "primary danger" }, "Delete…");
    this.clear = button("Clear", () => selection.clear(), { class: "plain" });
    this.chosen = h("div", { class: "chosen" }, this.count, h("span", { class: "spring" }), this.clear, this.remove);
    this.jobs = h("div", { class: "jobs" });
    fill(place, this.jobs, this.chosen);
    selection.subscribe(() => this.#draw());
    new ResizeObserver(() => document.body.style.setProperty("--foot", `${place.offsetHeight}px`)).observe(place);
  }

  /**
   * What the button does.
   *
   * @param {() => void} listener
   */
  onDelete(listener) {
    this.remove.addEventListener("click", listener);
  }

  /**
   * A job begins: something to show it with.
   *
   * @param {number} total
   */
  begin(total) {
    const words = h("span", { role: "status" }, `Deleting ${total} …`);
    const bar = h("progress", { max: String(total), value: "0", "aria-label": "Batch delete" });
    const errors = h("ul", { class: "errors" });
    const close = button("Close", () => done(), { class: "plain", hidden: true });
    const row = h("div", { class: "job" }, words, bar, close, errors);
    const done = () => {
      row.remove();
      this.#busy -= 1;
      this.#draw();
    };
    this.jobs.append(row);
    this.#busy += 1;
    this.#draw();
    /** @param {Job} job */
    const draw = (job) => {
      bar.max = job.total;
      bar.value = job.deleted + job.not_found + job.failed;
      say(words, `Deleting: ${bar.value} of ${job.total}`);
    };
    /** @param {Job} job */
    const end = (job) => {
      draw(job);
      const text = `${job.deleted} deleted, ${job.not_found} were gone already, ${job.failed} failed`;
      say(words, text);
      fill(
        errors,
        (job.errors ?? []).map((each) => h("li", {}, h("span", { class: "mono" }, each.stack_id), ` ${each.error}`)),
      );
      if (!job.failed) {
        tell(text);
        done();
      } else close.hidden = false;
    };
    /** @param {unknown} error */
    const lost = (error) => {
      say(words, `The job continues, but its progress is unknown: ${sentence(error)}`);
      close.hidden = false;
    };
    return { draw, end, lost };
  }

  #draw() {
    const { ids, hidden } = this.selection;
    const { filtered, closed } = hidden;
    const more = [
      `${ids.length} selected`,
      filtered && `${filtered} more ${filtered === 1 ? "is" : "are"} hidden by the filter`,
      closed && `${closed} more ${closed === 1 ? "is in a closed group" : "are in closed groups"}`,
    ];
    say(this.count, more.filter(Boolean).join(", "));
    say(this.remove, ids.length ? `Delete ${ids.length}…` : "Delete…");
    this.remove.disabled = !ids.length;
    this.chosen.hidden = !ids.length && !hidden.all;
    this.place.hidden = this.chosen.hidden && this.#busy === 0;
  }
}
