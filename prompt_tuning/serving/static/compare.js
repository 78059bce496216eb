/** Try: one input, answered by several prompts side by side. */

import { events, json } from "./api.js";
import { byId, filterBy, make, report, rounded, tell } from "./elements.js";
import * as table from "./table.js";

let running = null; // Aborts the running requests.
let examples = [];
let filter = () => {};

/** Connects the form. */
export function start() {
  const form = byId("try-form");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    report(byId("try-status"), answer);
  });
  byId("input").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  byId("stop").addEventListener("click", () => running?.abort());
  byId("example").addEventListener("change", useExample);
  filter = filterBy(byId("filter"), () => byId("choices").children);
  byId("none").addEventListener("click", () => {
    for (const box of chosen()) box.checked = false;
  });
  table.start(settings);
}

const chosen = () => [...byId("choices").querySelectorAll("input:checked")];

/** Returns the form's values, except for the input. */
function settings() {
  const models = chosen().map((box) => box.value);
  if (!models.length) throw new Error("Choose at least one model.");
  return {
    models,
    labels: byId("labels")
      .value.split(",")
      .map((label) => label.trim())
      .filter(Boolean),
    options: {
      max_tokens: byId("max-tokens").valueAsNumber,
      temperature: byId("temperature").valueAsNumber,
    },
  };
}

/** Lists the models, with the base first; keeps the selection. */
export function showModels(models) {
  const before = byId("choices").querySelectorAll("input");
  const wasChosen = new Map([...before].map((x) => [x.value, x.checked]));
  byId("choices").replaceChildren(
    ...models.map((model, i) =>
      make(
        "label",
        { "data-words": model.id },
        make("input", {
          type: "checkbox",
          value: model.id,
          checked: wasChosen.get(model.id) ?? (before.length ? false : i < 3),
        }),
        model.parent ? model.id : `${model.id}, alone`,
      ),
    ),
  );
  filter();
}

/** Offers example inputs for prompts, if the server has some. */
export function showExamples(offered) {
  examples = offered;
  if (!examples.length) return;
  byId("example").replaceChildren(
    ...examples.map((example, i) =>
      make("option", {
        value: i,
        textContent: `${example.model}: ${example.input}`.slice(0, 90),
      }),
    ),
  );
  byId("example-field").hidden = false;
  useExample();
}

function useExample() {
  const example = examples[byId("example").value];
  byId("input").value = example.input;
  const box = byId("choices").querySelector(
    `input[value="${CSS.escape(example.model)}"]`,
  );
  if (box) box.checked = true;
}

async function answer() {
  const { models, labels, options } = settings();
  running?.abort();
  const current = (running = new AbortController());
  byId("stop").disabled = false;
  tell(byId("try-status"), "Answering …");
  const base = byId("choices").querySelector("input").value;
  const cards = models.map((name) => card(name, name === base));
  byId("answers").replaceChildren(...cards.map((x) => x.element));
  const work = labels.length
    ? (x) => rank(x, labels, current.signal)
    : (x) => generate(x, options, current.signal);
  // All at once, because the server batches them.
  const done = await Promise.all(
    cards.map((x) => report(x.note, () => work(x))),
  );
  if (running !== current) return undefined; // A newer request is running.
  byId("stop").disabled = true;
  const good = done.filter(Boolean).length;
  return `${good} of ${cards.length} answers are complete.`;
}

function card(name, isBase) {
  // Screen readers announce the whole answer, not each token.
  const output = make("output", { "aria-live": "off" });
  const note = make("p", { className: "quiet" });
  const title = make("h3", { textContent: name });
  const className = isBase ? "answer base" : "answer";
  const properties = { className, "aria-label": `Answer of ${name}` };
  const element = make("article", properties, title, output, note);
  return { name, element, output, note };
}

async function generate({ name, output }, options, signal) {
  const begin = performance.now();
  let first = null;
  let reason = null;
  const body = {
    model: name,
    prompt: byId("input").value,
    ...options,
    stream: true,
  };
  for await (const event of events("/v1/completions", body, { signal })) {
    const choice = event.choices[0];
    if (!choice) continue;
    if (choice.text) first ??= performance.now();
    output.append(choice.text);
    reason = choice.finish_reason ?? reason;
  }
  const end = performance.now();
  const times = `${rounded(end - begin, 0)} ms, the first text after ${rounded(
    (first ?? end) - begin,
    0,
  )}`;
  return reason === "length" ? `${times}; cut at its length` : times;
}

async function rank({ name, output }, labels, signal) {
  const body = { model: name, prompt: byId("input").value, labels };
  const answer = await json("/v1/rank", body, { signal });
  const list = make("dl", { className: "ranking" });
  for (const { label, probability } of answer.data[0].labels) {
    list.append(
      make("dt", { textContent: label }),
      make(
        "dd",
        {},
        make("meter", {
          value: probability,
          "aria-label": `Probability of ${label}`,
        }),
      ),
      make("dd", {
        className: "number",
        textContent: `${rounded(100 * probability, 1)} %`,
      }),
    );
  }
  output.replaceChildren(list);
  return "The labels' shares of probability.";
}
