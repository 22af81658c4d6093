"""Locust users in an open loop: a task begins when it is due, whatever became of those before.

A scenario is a subclass of `OpenLoopUser` with ordinary Locust tasks that take the arrival as well:

    class Shop(OpenLoopUser):
        @task(3)
        def ask(self, arrival: Arrival) -> None:
            self.client.post("/answer", json={"question": arrival.rng.choice(QUESTIONS)})

Whatever a task requests of `self.client` counts for its arrival, whose time runs from the moment that it was due.
Importing this module patches the standard library for gevent: it belongs into a process of its own
(`loadtest.generate`).
"""

import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import gevent
from gevent.local import local
from gevent.pool import Group
from locust import FastHttpUser
from locust.env import Environment

from loadtest.outcomes import Exchange, Visit

_current = local()


@dataclass(slots=True)
class Arrival:
    """One request of the schedule. `rng` is its own, so that what is asked doesn't depend on who is faster."""

    number: int
    due_s: float
    rng: random.Random
    begun_s: float
    exchanges: list[Exchange] = field(default_factory=list)
    first_words_s: float | None = None
    notes: set[str] = field(default_factory=set)

    def note_first_words(self) -> None:
        """The first piece of an answer has come; only the first call counts."""
        if self.first_words_s is None:
            self.first_words_s = time.monotonic() - self.begun_s

    def note(self, *facts: str) -> None:
        """What the answer said of itself: `cached`, `rerank_skipped`."""
        self.notes.update(facts)


class OpenLoopUser(FastHttpUser):
    """One user object for all arrivals; its connections are as many as are needed at once."""

    abstract = True
    concurrency = 10_000
    connection_timeout = 10.0
    network_timeout = 60.0


@dataclass(slots=True)
class Generator:
    """Runs tasks of `user` at their moments; `keep` gets each visit when it has ended."""

    user: OpenLoopUser
    seed: int
    keep: Callable[[Visit], None]
    weights: dict[str, int] = field(default_factory=dict)

    def run(self, due: Iterable[float]) -> None:
        """All of them, and wait for the last."""
        self.user.environment.events.request.add_listener(note_exchange)
        tasks, begun_s, visits = self._tasks(), time.monotonic(), Group()
        for number, due_s in enumerate(due):
            gevent.sleep(max(begun_s + due_s - time.monotonic(), 0))
            arrival = Arrival(number, due_s, random.Random(f"{self.seed}:{number}"), begun_s)
            visits.spawn(self._visit, arrival.rng.choice(tasks), arrival)
        visits.join()

    def run_closed(self, num_users: int, seconds: float) -> None:
        """So many users, each with one task at a time: an arrival is due when the one before has ended."""
        self.user.environment.events.request.add_listener(note_exchange)
        tasks, begun_s, users = self._tasks(), time.monotonic(), Group()

        def ask_on(user_number: int) -> None:
            number = user_number
            while (due_s := time.monotonic() - begun_s) < seconds:
                arrival = Arrival(number, due_s, random.Random(f"{self.seed}:{number}"), begun_s)
                self._visit(arrival.rng.choice(tasks), arrival)
                number += num_users

        for user_number in range(num_users):
            users.spawn(ask_on, user_number)
        users.join()

    def _tasks(self) -> list[Any]:
        """Each as often as it weighs: by the profile's mix where it names them, else by `@task`."""
        tasks: list[Any] = list(self.user.tasks)
        by_name = {task.__name__: task for task in tasks}
        mixed = [by_name[name] for name, weight in self.weights.items() if name in by_name for _ in range(weight)]
        return mixed or tasks

    def _visit(self, task: Any, arrival: Arrival) -> None:
        _current.arrival = arrival
        sent_s = time.monotonic() - arrival.begun_s
        failure = ""
        try:
            task(self.user, arrival)
        except Exception as exc:  # noqa: BLE001 - a task boundary: a scenario's own mistake is one visit's
            failure = f"{type(exc).__name__}: {exc}"
        self.keep(
            Visit(
                task=task.__name__, due_s=arrival.due_s, sent_s=sent_s,
                done_s=time.monotonic() - arrival.begun_s, first_words_s=arrival.first_words_s,
                exchanges=tuple(arrival.exchanges), notes=tuple(sorted(arrival.notes)), failure=failure,
            )
        )  # fmt: skip


def note_exchange(*, name: str, exception: BaseException | None, response: Any = None, **_: Any) -> None:
    """Locust tells of every request, in the greenlet that made it."""
    arrival: Arrival | None = getattr(_current, "arrival", None)
    if arrival is not None:
        status = int(getattr(response, "status_code", 0) or 0)
        arrival.exchanges.append(Exchange(name, status, "" if exception is None else f"{exception}"[:200]))


def open_user(user_class: type[OpenLoopUser], url: str) -> OpenLoopUser:
    user_class.host = url
    return user_class(Environment(user_classes=[user_class], host=url))
