// The page: a question goes out, and everything that happens to it is shown as it happens.

import { AnswerView } from "./answer.js";
import { ask, isReady, ServiceError } from "./api.js";
import { curl } from "./curl.js";
import { Passages } from "./passages.js";
import { element } from "./text.js";

const EXAMPLES = ["How high is Mont Blanc?", "Who painted The Night Watch?", "In which town do most people on Corsica live?"];
const KEY = "rankrag-key";
const READY_INTERVAL_MS = 10_000;

const at = (id) => document.getElementById(id);
const passages = new Passages(at("passages"), at("order"));
const answer = new AnswerView(at("answer"), at("notes"), at("timings"), (ids, words) => passages.cite(ids, words));
let running = null;

function requestBody() {
  const body = { question: at("question").value.trim(), stream: true };
  for (const name of ["top_n", "top_k"]) {
    if (at(name).value) body[name] = Number(at(name).value);
  }
  if (!at("cache").checked) body.cache = false;
  return body;
}

async function run() {
  running?.abort();
  const own = (running = new AbortController());
  const body = requestBody();
  begin(body);
  try {
    for await (const event of ask(body, at("key").value, own.signal)) {
      if (own === running) take(event);
    }
  } catch (error) {
    if (own === running) fail(error);
  } finally {
    if (own === running) end();
  }
}

function begin(body) {
  passages.clear();
  answer.begin();
  at("problem").hidden = true;
  at("result").hidden = false;
  at("curl").textContent = curl(body, Boolean(at("key").value));
  at("stop").hidden = false;
}

function end() {
  running = null;
  answer.end();
  at("stop").hidden = true;
}

function take(event) {
  switch (event.type) {
    case "search_results": return passages.found(event.passages);
    case "rerank": return passages.ranked(event.passages);
    case "answer.delta": return answer.add(event.text);
    case "final":
      passages.ranked(event.passages);
      return answer.final(event);
  }
}

function fail(error) {
  if (error.name === "AbortError") {
    at("notes").textContent = "Stopped.";
    return;
  }
  const isOurs = error instanceof ServiceError;
  at("problem").hidden = false;
  at("problem-title").textContent = isOurs ? titleOf(error) : "The service could not be reached";
  at("problem-text").textContent = error.message;
  at("problem-more").textContent = isOurs ? moreOf(error).join(" · ") : "";
  if (!passages.rows.size) at("result").hidden = true;
}

function titleOf(error) {
  if (error.status === 401) return "An API key is needed";
  if (error.status === 403) return "This key may not ask that";
  if (error.status === 429) return "Too much is asked at the moment";
  return `Error ${error.status === 200 ? "" : error.status} ${error.code}`.replace("  ", " ");
}

function moreOf(error) {
  const more = [];
  if (error.retryAfter) more.push(`Ask again in ${error.retryAfter} s`);
  if (error.param) more.push(`Field: ${error.param}`);
  if (error.limit !== null && error.limit !== undefined) more.push(`Limit: ${error.limit}`);
  if (error.requestId) more.push(`Request ${error.requestId}`);
  if (error.status === 401) more.push("See Options");
  return more;
}

async function showReady() {
  const up = await isReady();
  at("ready").textContent = up ? "ready" : "not ready";
  at("ready").className = `ready ${up ? "is-up" : "is-down"}`;
}

function example(text) {
  const made = element("button", { type: "button", text });
  made.addEventListener("click", () => {
    at("question").value = text;
    run();
  });
  return made;
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
at("stop").addEventListener("click", () => running?.abort());
at("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(at("curl").textContent);
  at("copy").textContent = "Copied";
});
at("key").value = sessionStorage.getItem(KEY) ?? "";
at("key").addEventListener("input", () => sessionStorage.setItem(KEY, at("key").value));
at("examples").append(...EXAMPLES.map(example));
at("question").focus();
showReady();
setInterval(showReady, READY_INTERVAL_MS);
