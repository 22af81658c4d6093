// The answer as it comes, then with its citations, each a button that shows where its words stand.

import { element, sliced } from "./text.js";

export class AnswerView {
  constructor(answer, notes, timings, onCite) {
    Object.assign(this, { answer, notes, timings, onCite });
  }

  begin() {
    this.text = "";
    this.answer.textContent = "";
    this.notes.textContent = "";
    this.timings.replaceChildren();
    this.answer.classList.add("is-waiting");
  }

  add(text) {
    this.text += text;
    this.answer.textContent = this.text;
  }

  end() {
    this.answer.classList.remove("is-waiting");
  }

  final(body) {
    this.end();
    this.answer.replaceChildren(...this.cited(body.answer, body.citations));
    this.notes.textContent = notesOf(body).join(" · ");
    this.timings.replaceChildren(...bars(body.timings_ms));
  }

  cited(text, citations) {
    const parts = [];
    let at = 0;
    for (const citation of [...citations].sort((a, b) => a.start - b.start)) {
      if (citation.start < at) continue;
      parts.push(sliced(text, at, citation.start), this.button(citation));
      at = citation.end;
    }
    return [...parts, sliced(text, at)];
  }

  button(citation) {
    const ids = citation.sources.map((source) => source.id);
    const made = element("button", { className: "cite", type: "button", text: citation.text, "aria-pressed": "false",
      title: `Found word for word in ${ids.join(", ")}` });
    made.addEventListener("click", () => {
      for (const other of this.answer.querySelectorAll(".cite")) other.setAttribute("aria-pressed", String(other === made));
      this.onCite(ids, citation.text);
    });
    return made;
  }
}

function notesOf(body) {
  const notes = [];
  if (body.abstained) notes.push("The passages do not hold the answer, says the model");
  if (body.cached) notes.push("From the cache");
  if (body.degraded.length) notes.push(`Degraded: ${body.degraded.join(", ")}`);
  notes.push(`${body.usage.pairs_scored} pairs scored, ${body.usage.pairs_cached} known`);
  notes.push(`${body.usage.total_tokens} tokens`);
  return notes;
}

function bars(timings) {
  const most = Math.max(...Object.values(timings), 1);
  return Object.entries(timings).flatMap(([stage, ms]) => [
    element("span", { text: stage.replaceAll("_", " ") }),
    element("progress", { max: most, value: ms, "aria-label": stage }),
    element("span", { className: "number", text: `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms` }),
  ]);
}
