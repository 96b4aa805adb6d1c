// What a person can do to stacks. Each asks first where it cannot be undone, says what came of it, and never throws.

/** @import { Selection } from "./selection.js" */
/** @import { Stacks } from "./stacks.js" */
/** @import { StackData } from "./stack.js" */
/** @import { Job, Progress } from "./progress.js" */

import { ask, pathOf } from "./api.js";
import { confirm } from "./dialogs.js";
import { WORDS } from "./stack.js";
import { left } from "./times.js";
import { complain, tell } from "./toasts.js";

const TYPE_ABOVE = 10;
const POLL = 400;
const LISTED = 200;

export class Actions {
  /**
   * @param {Stacks} stacks
   * @param {Selection} selection
   * @param {Progress} progress
   */
  constructor(stacks, selection, progress) {
    this.stacks = stacks;
    this.selection = selection;
    this.progress = progress;
    /** @type {Map<string, (job: Job) => void>} */
    this.jobs = new Map();
  }

  /**
   * @param {string} id
   * @param {string} ttl
   */
  extend(id, ttl) {
    return this.#change(
      () => ask("POST", pathOf(id, "extend"), { body: { ttl } }),
      (stack) => `${id} has ${left(stack.ttl_expires_at)} left`,
    );
  }

  /** @param {string} id */
  async restart(id) {
    const sure = await confirm({
      title: "Restart the stack?",
      text: `${id} gets a fresh pod behind the same ports. What is in its pod is lost.`,
      verb: "Restart",
    });
    if (sure)
      await this.#change(
        () => ask("POST", pathOf(id, "restart")),
        () => `${id} is restarting`,
      );
  }

  /** @param {string} id */
  async stop(id) {
    const sure = await confirm({
      title: "Stop the stack?",
      text: `The pod of ${id} and everything in it will be deleted. Its ports are kept.`,
      verb: "Stop",
    });
    if (sure)
      await this.#change(
        () => ask("POST", pathOf(id, "stop")),
        () => `${id} is stopped`,
      );
  }

  /** @param {string} id */
  async start(id) {
    await this.#change(
      () => ask("POST", pathOf(id, "start")),
      () => `${id} is starting`,
    );
  }

  /** @param {string} id */
  async remove(id) {
    const sure = await confirm({
      title: "Delete the stack?",
      text: `${id} goes with everything in it. This cannot be undone.`,
      verb: "Delete",
    });
    if (!sure) return;
    try {
      await ask("DELETE", pathOf(id));
      this.stacks.remove(id);
      tell(`${id} is deleted`);
    } catch (error) {
      complain(error);
    }
  }

  /** Delete the stacks that are selected and shown, as one job. */
  async removeSelected() {
    const { ids, hidden } = this.selection;
    const count = ids.length;
    if (!count) return;
    const found = ids.map((id) => this.stacks.get(id)).filter((stack) => stack !== undefined);
    const kinds = [...Map.groupBy(found, (stack) => stack.status)];
    const { narrowed, words } = this.stacks.view;
    const listed = found.slice(0, LISTED).map((stack) => `${stack.labelled.join(" ")}  ${stack.stack_id}`.trim());
    if (count > LISTED) listed.push(`… and ${count - LISTED} more`);
    const sure = await confirm({
      title: `Delete ${stacks(count)}?`,
      text: [
        narrowed ? `The filter is ${words}.` : "No filter is set.",
        `${kinds.map(([status, list]) => `${list.length} ${WORDS[status]}`).join(", ")}.`,
        hidden.all ? `${hidden.all} more are selected but hidden; they stay.` : "",
        "Everything in them is lost. This cannot be undone.",
      ]
        .filter(Boolean)
        .join(" "),
      details: listed,
      verb: `Delete ${count}`,
      type: count > TYPE_ABOVE ? String(count) : null,
    });
    if (!sure) return;
    try {
      const { job_id: jobId } = await ask("POST", "/stacks/batch-delete", { body: { stack_ids: ids } });
      this.selection.drop(ids);
      await this.#follow(jobId, count);
    } catch (error) {
      complain(error);
    }
  }

  /**
   * The event stream reports a job.
   *
   * @param {Job} job
   */
  jobChanged(job) {
    this.jobs.get(job.job_id)?.(job);
  }

  /**
   * @param {string} jobId
   * @param {number} count
   */
  async #follow(jobId, count) {
    const shown = this.progress.begin(count);
    /** @param {Job} job */
    const draw = (job) => shown.draw(job);
    this.jobs.set(jobId, draw);
    try {
      for (;;) {
        const job = await ask("GET", `/stacks/batch-delete/${encodeURIComponent(jobId)}`);
        draw(job);
        if (job.status === "completed" || job.status === "failed") {
          shown.end(job);
          return;
        }
        await new Promise((resolve) => setTimeout(resolve, POLL));
      }
    } catch (error) {
      shown.lost(error);
    } finally {
      this.jobs.delete(jobId);
    }
  }

  /**
   * @param {() => Promise<StackData>} request
   * @param {(stack: StackData) => string} words
   */
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

/** @param {number} count */
function stacks(count) {
  return `${count} stack${count === 1 ? "" : "s"}`;
}
