"""The built-in scenario: questions that repeat by Zipf's law, answered, streamed and reranked."""

import json
from bisect import bisect_right
from itertools import accumulate
from typing import Any

from locust import task

from loadtest.open_loop import Arrival, OpenLoopUser


class Asker(OpenLoopUser):
    """Asks the service. `workload` is set before the first task, see `loadtest.generate`."""

    workload: "Workload"

    @task
    def answer(self, arrival: Arrival) -> None:
        response = self.client.post("/answer", json=self.workload.question(arrival), headers=self.workload.headers)
        if response.status_code == 200:
            note_answer(arrival, response.json())

    @task
    def stream(self, arrival: Arrival) -> None:
        body = {**self.workload.question(arrival), "stream": True}
        with self.client.post(
            "/answer", json=body, name="/answer (streamed)", stream=True, catch_response=True,
            headers=self.workload.headers,
        ) as response:  # fmt: skip
            if response.status_code == 200 and not read_stream(arrival, response):
                response.failure("the stream ended without an answer")

    @task
    def rerank(self, arrival: Arrival) -> None:
        response = self.client.post("/rerank", json=self.workload.documents(arrival), headers=self.workload.headers)
        if response.status_code == 200:
            arrival.note(*response.json()["degraded"])


class Workload:
    """What is asked about, and how: the profile's fields, questions and passages."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan
        self._questions: list[str] = plan["questions"]
        self._passages: list[str] = plan["passages"]
        self._cumulative = list(accumulate(rank ** -plan["zipf"] for rank in range(1, len(self._questions) + 1)))
        self.headers = {"Authorization": f"Bearer {plan['api_key']}"} if plan["api_key"] else {}

    def question(self, arrival: Arrival) -> dict[str, Any]:
        sizes = {name: self._plan[name] for name in ("top_n", "top_k", "max_tokens")}
        return {"question": self._fresh(self._draw(arrival), arrival), **sizes, **self._common()}

    def documents(self, arrival: Arrival) -> dict[str, Any]:
        """A question and passages that go with its place, so that they repeat as it does."""
        question = self._draw(arrival)
        first, count = self._questions.index(question) * self._plan["documents"], self._plan["documents"]
        documents = [self._passages[(first + place) % len(self._passages)] for place in range(count)]
        return {"query": self._fresh(question, arrival), "documents": documents, **self._common()}

    def _common(self) -> dict[str, Any]:
        return {"cache": self._plan["cache"], "deadline_ms": round(1000 * self._plan["deadline_s"])}

    def _fresh(self, question: str, arrival: Arrival) -> str:
        """The same question of this run and stretch of time: in the next one it is another to any cache."""
        return f"{question} ({self._plan['name']}, {arrival.due_s // self._plan['fresh_every_s']:.0f})"

    def _draw(self, arrival: Arrival) -> str:
        place = bisect_right(self._cumulative, arrival.rng.random() * self._cumulative[-1])
        return self._questions[min(place, len(self._questions) - 1)]


def note_answer(arrival: Arrival, body: dict[str, Any]) -> None:
    arrival.note(*body["degraded"], *(["cached"] if body["cached"] else []))


def read_stream(arrival: Arrival, response: Any) -> bool:
    """Follow the events to their end; whether the answer came."""
    kind = ""
    for line in iter(lambda: response.stream.readline(b"\n"), b""):
        name, _, value = line.strip().partition(b": ")
        if name == b"event":
            kind = value.decode()
        if name == b"data" and kind in ("answer.delta", "final"):
            arrival.note_first_words()
        if name == b"data" and kind == "final":
            note_answer(arrival, json.loads(value))
            return True
    return False
