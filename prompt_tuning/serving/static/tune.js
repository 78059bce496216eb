/** Tune: a data set becomes a job, and the job a prompt. */

import { events, json, request } from "./api.js";
import { Curve } from "./curves.js";
import {
  button,
  byId,
  make,
  onSubmit,
  report,
  rounded,
  save,
  tell,
} from "./elements.js";

const JOBS = "/v1/fine_tuning/jobs";
const FILES = "/v1/files";
const OVER = ["succeeded", "failed", "cancelled"];
// Unlike "loss", which is a sum, it does not grow with the answers.
const LOSS = "loss_per_nonpadding_target_token";

let base = "";
let onPrompt = () => {};
let shown = null; // The job whose events are read, with an abort controller.

/**
 * Connects the form and lists the jobs.
 * @param {string} model The base model.
 * @param {function()} onNewPrompt Called when a job has made a prompt.
 */
export async function start(model, onNewPrompt) {
  base = model;
  onPrompt = onNewPrompt;
  onSubmit(byId("tune-form"), byId("tune-status"), submit);
  await listJobs();
  await listFiles();
}

/** Queues a job; an empty field is sent as null, which means not given. */
async function submit() {
  tell(byId("tune-status"), "Uploading …");
  const files = await Promise.all([
    upload(byId("train-file").files[0]),
    upload(byId("validation-file").files[0]),
  ]);
  const job = await json(JOBS, {
    model: base,
    training_file: files[0],
    validation_file: files[1],
    suffix: byId("name").value,
    seed: byId("seed").valueAsNumber,
    hyperparameters: {
      length: byId("length").valueAsNumber,
      steps: byId("steps").valueAsNumber,
      learning_rate: byId("rate").valueAsNumber,
      init: byId("init").value || null,
    },
  });
  await listJobs();
  await listFiles();
  show(job.id);
  return "";
}

/** Uploads a file; returns its id, or null without a file. */
async function upload(file) {
  if (!file) return null;
  const body = new FormData();
  body.append("purpose", "fine-tune");
  body.append("file", file);
  const response = await request(FILES, { method: "POST", body });
  return (await response.json()).id;
}

async function listFiles() {
  const files = (await json(FILES)).data;
  byId("files").replaceChildren(...files.map(fileEntry));
}

function fileEntry({ id, filename, pairs, bytes }) {
  const remove = () =>
    report(byId("tune-status"), async () => {
      await request(`${FILES}/${id}`, { method: "DELETE" });
      await listFiles();
      return `${filename} is deleted.`;
    });
  const label = { "aria-label": `Delete ${filename}` };
  const size = `${rounded(pairs)} examples, ${rounded(bytes / 1024, 1)} KiB`;
  const name = make("span", { textContent: `${filename} · ${size}` });
  return make(
    "li",
    { className: "buttons" },
    name,
    button("Delete", remove, label),
  );
}

async function listJobs() {
  const jobs = (await json(`${JOBS}?limit=100`)).data;
  byId("no-jobs").hidden = jobs.length > 0;
  byId("jobs").replaceChildren(...jobs.map(entry));
}

function entry(job) {
  const when = new Date(1000 * job.created_at).toLocaleString();
  const open = () => {
    show(job.id);
    byId("job").querySelector("h3").focus();
  };
  const text = `${nameOf(job)} · ${job.status} · ${when}`;
  const pressed = shown?.id === job.id;
  return make(
    "li",
    {},
    button(text, open, { "aria-pressed": pressed, "data-job": job.id }),
  );
}

/** Returns a job's prompt or, before there is one, its name. */
const nameOf = (job) => job.fine_tuned_model ?? job.user_provided_suffix;

/** Shows a job, and follows it until it is over or another one is shown. */
async function show(id) {
  shown?.reading.abort();
  const current = (shown = { id, reading: new AbortController() });
  for (const button of byId("jobs").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", button.dataset.job === id);
  }
  const view = new JobView(id);
  byId("job").replaceChildren(view.element);
  byId("job").hidden = false;
  await report(view.status, async () => {
    await follow(view, current);
    await listJobs();
    if (view.job.status === "succeeded") onPrompt();
  });
}

/** Reads a job's events to the end; continues after a server restart. */
async function follow(view, { id, reading }) {
  const path = `${JOBS}/${id}`;
  const { signal } = reading;
  let last = 0;
  for (;;) {
    try {
      view.showJob(await json(path, undefined, { signal }));
      const headers = { "Last-Event-ID": last };
      const all = events(`${path}/events?stream=true`, undefined, {
        signal,
        headers,
      });
      for await (const event of all) {
        last = Number(event.id.split("-").at(-1));
        view.showEvent(event);
      }
      view.showJob(await json(path, undefined, { signal }));
      if (view.isOver) return;
    } catch (error) {
      // `fetch` throws a TypeError; a proxy answers 502 while a server starts.
      // An error in an event has no status.
      const { status, type } = error;
      const mayPass = status > 501 || type === "server_error";
      if (!(error instanceof TypeError || mayPass)) throw error;
      tell(view.status, "No answer from the server yet; trying again …");
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

/** A job's progress and curves. */
class JobView {
  constructor(id) {
    this.id = id;
    this.job = null;
    this.title = make("h3", { tabIndex: -1, textContent: id });
    this.status = make("p", { role: "status" });
    const label = { "aria-label": "Finished steps" };
    this.progress = make("progress", { max: 1, value: 0, ...label });
    this.cancel = button("Cancel", () => this.stop());
    const record = button("Record", () => this.saveRecord());
    this.loss = new Curve("Loss per token");
    this.score = new Curve("Score", true);
    this.element = make(
      "div",
      {},
      this.title,
      this.status,
      this.progress,
      make("p", { className: "buttons" }, this.cancel, record),
      make(
        "div",
        { className: "curves" },
        this.loss.element,
        this.score.element,
      ),
    );
  }

  get isOver() {
    return OVER.includes(this.job.status);
  }

  showJob(job) {
    this.job = job;
    this.title.textContent = nameOf(job);
    this.cancel.hidden = this.progress.hidden = this.isOver;
    const reason = job.error ? `: ${job.error.message}` : "";
    tell(this.status, `${job.status}${reason}`);
  }

  showEvent({ kind, message, data }) {
    const { step, steps, score, metrics } = data;
    if (steps) this.progress.value = step / steps;
    if (kind === "train") this.loss.add(step, metrics.train[LOSS]);
    if (score != null) this.score.add(step, score);
    // Not every loss: screen readers announce each message.
    if (kind !== "train" && !this.isOver) tell(this.status, message);
  }

  /** Saves the job, with its settings and all of its events, as JSON. */
  saveRecord() {
    return report(this.status, async () => {
      const job = await json(`${JOBS}/${this.id}`);
      const { data } = await json(`${JOBS}/${this.id}/events`);
      const text = JSON.stringify({ job, events: data.reverse() }, null, 2);
      save(new Blob([text]), `${this.id}.json`);
    });
  }

  stop() {
    return report(this.status, async () => {
      await json(`${JOBS}/${this.id}/cancel`, {});
    });
  }
}
