// The list of passages: first as they were found, then as the model ranks them, each row moving to its new place.
// A cached answer comes with the passages that were kept, and without those that were found.

import { element, marked } from "./text.js";

const MOVE_MS = 600;

export class Passages {
  constructor(list, order) {
    Object.assign(this, { list, order });
    this.clear();
  }

  clear() {
    this.rows = new Map();
    this.count = null;
    this.list.replaceChildren();
    this.order.textContent = "";
  }

  found(passages) {
    for (const passage of passages) this.rows.set(passage.id, row(passage));
    this.list.replaceChildren(...[...this.rows.values()].map((made) => made.item));
    this.count = passages.length;
    this.order.textContent = `${this.count} found`;
  }

  ranked(passages) {
    for (const passage of passages) {
      if (!this.rows.has(passage.id)) this.rows.set(passage.id, row(passage));
      show(this.rows.get(passage.id), passage);
    }
    const kept = new Set(passages.map((passage) => passage.id));
    const others = [...this.rows.keys()].filter((id) => !kept.has(id));
    for (const id of others) leaveOut(this.rows.get(id));
    this.arrange([...kept, ...others]);
    this.order.textContent = this.count === null ? `${kept.size} kept` : `${this.count} found, ${kept.size} kept`;
  }

  arrange(ids) {
    const before = new Map(ids.map((id) => [id, this.rows.get(id).item.getBoundingClientRect().top]));
    this.list.replaceChildren(...ids.map((id) => this.rows.get(id).item));
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    for (const id of ids) {
      const { item } = this.rows.get(id);
      const moved = before.get(id) - item.getBoundingClientRect().top;
      if (moved) {
        item.animate([{ transform: `translateY(${moved}px)` }, { transform: "none" }],
          { duration: MOVE_MS, easing: "ease-in-out" });
      }
    }
  }

  cite(ids, words) {
    for (const [id, made] of this.rows) {
      const isCited = ids.includes(id);
      made.details.classList.toggle("is-cited", isCited);
      if (made.passage.text) made.text.replaceChildren(...(isCited ? marked(made.passage.text, words) : [made.passage.text]));
      if (isCited) made.details.open = true;
    }
    const first = this.rows.get(ids[0]);
    first?.item.scrollIntoView({ block: "nearest" });
    first?.summary.focus({ preventScroll: true });
  }
}

function row(passage) {
  const place = element("span", { className: "place", text: `${passage.retrieval_rank}` });
  const move = element("span", { className: "move" });
  const title = element("span", { className: "title", text: passage.title || passage.id });
  const summary = element("summary", {}, place, title, move);
  const scores = element("div", { className: "scores" });
  const text = element("p", { className: "text" });
  const details = element("details", { className: "passage" }, summary, text);
  const item = element("li", {}, details, scores);
  return { passage, item, details, summary, place, move, scores, text };
}

function show(made, passage) {
  made.passage = passage;
  made.place.textContent = `${passage.rank}`;
  made.details.classList.add("has-text");
  made.details.classList.toggle("is-left-out", !passage.in_context);
  made.text.textContent = passage.text;
  showMove(made.move, passage.retrieval_rank - passage.rank, passage.retrieval_rank);
  if (passage.relevance_score !== null) showScores(made.scores, passage);
}

function leaveOut(made) {
  made.details.classList.add("is-left-out");
  made.place.textContent = "–";
  made.move.textContent = `was ${made.passage.retrieval_rank}`;
}

function showMove(move, places, from) {
  const arrow = places > 0 ? `▲ ${places}` : places < 0 ? `▼ ${-places}` : "=";
  move.textContent = arrow;
  move.className = `move ${places > 0 ? "is-up" : places < 0 ? "is-down" : ""}`;
  move.setAttribute("aria-label", places ? `${places > 0 ? "up" : "down"} ${Math.abs(places)}, from place ${from}` : "same place");
}

function showScores(scores, passage) {
  const relevance = passage.relevance_score;
  scores.replaceChildren(
    element("progress", { max: 1, value: relevance, "aria-label": "P(True)" }),
    element("span", { className: "number", text: `P(True) ${relevance.toFixed(3)}` }),
    element("span", { className: "number", text: `label mass ${passage.label_mass.toFixed(2)}`,
      title: "How much of the next token's probability is on True and False together. Low: the model isn't judging." }),
  );
}
