/** The page: the state of the server, and three sections. */

import { json } from "./api.js";
import * as compare from "./compare.js";
import { byId, tell } from "./elements.js";
import * as prompts from "./prompts.js";
import * as tune from "./tune.js";

async function showModels() {
  const models = [];
  for (let page = { has_more: true }, query = ""; page.has_more; ) {
    page = await json(`/v1/models${query}`);
    models.push(...page.data);
    query = `?after=${encodeURIComponent(page.last_id)}`;
  }
  compare.showModels(models);
  prompts.showModels(models);
  const [base, ...others] = models.map((model) => model.id);
  tell(byId("server"), `${base}, with ${others.length} prompts`);
  return base;
}

/** Waits until the server is ready; it compiles programs at the start. */
async function ready() {
  for (;;) {
    const response = await fetch("/readyz");
    if (response.ok) return;
    if (response.status !== 503) throw new Error("The server failed.");
    tell(byId("server"), "The server is starting …");
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

try {
  await ready();
  compare.start();
  prompts.start(showModels);
  const base = await showModels();
  const page = await json("/v1/page");
  compare.showExamples(page.examples);
  byId("max-tokens").max = page.max_tokens;
  byId("max-tokens").value = Math.min(16, page.max_tokens);
  byId("length").max = page.longest_prompt;
  byId("length").value = Math.min(20, page.longest_prompt);
  for (const part of document.querySelectorAll(".tuning")) {
    part.hidden = !page.tunes;
  }
  if (page.tunes) await tune.start(base, showModels);
} catch (error) {
  tell(byId("server"), error);
}
