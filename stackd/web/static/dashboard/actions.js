// What a person can do to stacks. Each asks first where it cannot be undone, says what came of it, and never throws.

import { ask, pathOf } from "./api.js";
import { confirm } from "./dialogs.js";
import { complain, tell } from "./toasts.js";
import { left } from "./times.js";

const TYPE_ABOVE = 10;
const POLL = 400;

export class Actions {
  constructor(stacks, selection, progress) {
    this.stacks = stacks;
    this.selection = selection;
    this.progress = progress;
    this.jobs = new Map();
  }

  async extend(id, ttl) {
    return this.#change(() => ask("POST", pathOf(id, "extend"), { body: { ttl } }), (stack) => `${id} has ${left(stack.ttl_expires_at)} left`);
  }

  async restart(id) {
    const sure = await confirm({ title: "Restart the stack?", text: `${id} gets a fresh pod behind the same ports. What is in its pod is lost.`, verb: "Restart" });
    if (sure) await this.#change(() => ask("POST", pathOf(id, "restart")), () => `${id} is restarting`);
  }

  async stop(id) {
    const sure = await confirm({ title: "Stop the stack?", text: `The pod of ${id} goes, and what is in it. Its ports are kept for a start.`, verb: "Stop" });
    if (sure) await this.#change(() => ask("POST", pathOf(id, "stop")), () => `${id} is stopped`);
  }

  async start(id) {
    await this.#change(() => ask("POST", pathOf(id, "start")), () => `${id} is starting`);
  }

  async remove(id) {
    const sure = await confirm({ title: "Delete the stack?", text: `${id} goes with everything in it. This cannot be undone.`, verb: "Delete" });
    if (!sure) return;
    try {
      await ask("DELETE", pathOf(id));
      this.stacks.remove(id);
      tell(`${id} is deleted`);
    } catch (error) {
      complain(error);
    }
  }

  /** Delete many, as one job. */
  async removeMany(ids) {
    const count = ids.length;
    const found = ids.map((id) => this.stacks.get(id)).filter(Boolean);
    const counts = Map.groupBy ? Map.groupBy(found, (stack) => stack.status) : new Map();
    const kinds = [...counts].map(([status, list]) => `${list.length} ${status.replace("_", " ")}`).join(", ");
    const sure = await confirm({
      title: `Delete ${count} stack${count === 1 ? "" : "s"}?`,
      text: `${kinds || "They"} – they go with everything in them. This cannot be undone.`,
      details: found.slice(0, 200).map((stack) => `${stack.stack_id}  ${stack.labelled.join(" ")}`),
      verb: `Delete ${count}`,
      type: count > TYPE_ABOVE ? String(count) : null,
    });
    if (!sure) return;
    try {
      const { job_id: jobId } = await ask("POST", "/stacks/batch-delete", { body: { stack_ids: ids } });
      this.selection.clear();
      await this.#follow(jobId, count);
    } catch (error) {
      complain(error);
    }
  }

  /** The event stream tells of a job. */
  heard(job) {
    this.jobs.get(job.job_id)?.(job);
  }

  async #follow(jobId, count) {
    const shown = this.progress.begin(count);
    const draw = (job) => shown.draw(job);
    this.jobs.set(jobId, draw);
    try {
      for (;;) {
        const job = await ask("GET", `/stacks/batch-delete/${encodeURIComponent(jobId)}`);
        draw(job);
        if (job.status === "completed" || job.status === "failed") return shown.end(job);
        await new Promise((resolve) => setTimeout(resolve, POLL));
      }
    } catch (error) {
      shown.lost(error);
    } finally {
      this.jobs.delete(jobId);
    }
  }

  async #change(request, words) {
    try {
      const stack = await request();
      if (this.stacks.get(stack.stack_id)) this.stacks.put(stack); // else it went meanwhile
      tell(words(stack));
      return stack;
    } catch (error) {
      complain(error);
      return null;
    }
  }
}
