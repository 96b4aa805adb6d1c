// The bar at the bottom: what is selected, and how far a batch delete has got.

import { fill, h, say } from "../shared/dom.js";
import { tell } from "./toasts.js";

export class Progress {
  #busy = 0;

  constructor(place, selection, stacks) {
    this.place = place;
    this.selection = selection;
    this.count = h("b", {});
    this.remove = h("button", { type: "button", class: "primary danger" }, "Delete…");
    this.clear = h("button", { type: "button", class: "plain" }, "Clear");
    this.clear.addEventListener("click", () => selection.clear());
    this.chosen = h("div", { class: "chosen" }, h("span", {}, this.count, " selected"), h("span", { class: "spring" }), this.clear, this.remove);
    this.jobs = h("div", { class: "jobs" });
    fill(place, this.jobs, this.chosen);
    selection.subscribe(() => this.#draw());
    stacks.subscribe(() => selection.keep((id) => stacks.all.has(id)));
  }

  /** What the button does. */
  onDelete(listener) {
    this.remove.addEventListener("click", () => listener(this.selection.ids));
  }

  /** A job begins: something to show it with. */
  begin(total) {
    const words = h("span", { role: "status" }, `Deleting ${total} …`);
    const bar = h("progress", { max: String(total), value: "0", "aria-label": "Batch delete" });
    const errors = h("ul", { class: "errors" });
    const close = h("button", { type: "button", class: "plain", hidden: true }, "Close");
    const row = h("div", { class: "job" }, words, bar, close, errors);
    const done = () => {
      row.remove();
      this.#busy -= 1;
      this.#draw();
    };
    close.addEventListener("click", done);
    this.jobs.append(row);
    this.#busy += 1;
    this.#draw();
    const draw = (job) => {
      bar.max = job.total;
      bar.value = job.deleted + job.not_found + job.failed;
      say(words, `Deleting: ${bar.value} of ${job.total}`);
    };
    const end = (job) => {
      draw(job);
      const text = `${job.deleted} deleted, ${job.not_found} were gone already, ${job.failed} failed`;
      say(words, text);
      fill(errors, (job.errors ?? []).map((each) => h("li", {}, h("span", { class: "mono" }, each.stack_id), ` ${each.error}`)));
      if (!job.failed) {
        tell(text);
        done();
      } else close.hidden = false;
    };
    const lost = (error) => {
      say(words, `The job goes on, but its progress is not known: ${error.message}`);
      close.hidden = false;
    };
    return { draw, end, lost };
  }

  #draw() {
    say(this.count, String(this.selection.size));
    this.chosen.hidden = this.selection.size === 0;
    this.place.hidden = this.selection.size === 0 && this.#busy === 0;
    document.body.classList.toggle("has-selection", !this.place.hidden);
  }
}
