"""Load profiles: what is asked, how often, and which thresholds decide."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from loadtest.measures import Verdict
from loadtest.traffic import poisson_moments
from service.errors import ConfigError

PROFILES = Path(__file__).with_name("profiles.yaml")

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Phase(_Part):
    """Requests at one rate, given or in units of the capacity; at neither it is a rest."""

    name: str
    seconds: Positive
    rate: Positive | None = None
    load: Positive | None = None
    measured: bool = True

    @model_validator(mode="after")
    def _has_one_rate(self) -> "Phase":
        if self.rate is not None and self.load is not None:
            raise ValueError("`rate` or `load`, not both")
        return self

    def per_s(self, capacity: float | None) -> float:
        """Requests a second. Raises ConfigError where that takes a capacity that nobody knows."""
        if self.load is None:
            return self.rate or 0.0
        if capacity is None:
            raise ConfigError(f"phase {self.name!r} is in units of the capacity: give --capacity", field="capacity")
        return self.load * capacity


class Slo(_Part):
    """What a caller waits for, in seconds: the whole answer, and the first words of a streamed one."""

    e2e_s: Positive
    ttft_s: Positive


class Threshold(_Part):
    """One bound, or both."""

    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _bounds_something(self) -> "Threshold":
        if self.at_least is None and self.at_most is None:
            raise ValueError("`at_least` or `at_most` is missing")
        return self

    def verdicts(self, name: str, value: float | None) -> Iterator[Verdict]:
        if self.at_least is not None:
            yield Verdict(name, "at least", self.at_least, value)
        if self.at_most is not None:
            yield Verdict(name, "at most", self.at_most, value)


class Profile(_Part):
    """`settings` are environment variables of a service that is started for it."""

    about: str
    mix: dict[str, Annotated[int, Field(ge=0)]]
    zipf: Share
    cache: bool
    fresh_every_s: Positive = 20
    top_n: int
    top_k: int
    max_tokens: int
    documents: int
    deadline_s: Positive
    slo: Slo
    phases: Annotated[list[Phase], Field(min_length=1)]
    thresholds: dict[str, Threshold] = {}
    settings: dict[str, str] = {}

    @property
    def needs_capacity(self) -> bool:
        return any(phase.load is not None for phase in self.phases)

    @property
    def seconds(self) -> float:
        return sum(phase.seconds for phase in self.phases)


def read_profiles(path: Path = PROFILES) -> dict[str, Profile]:
    """By name. Raises ConfigError, which says what is wrong where."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        return {name: _profile(name, fields) for name, fields in document["profiles"].items()}
    except (OSError, yaml.YAMLError, KeyError, AttributeError, TypeError) as exc:
        raise ConfigError(f"{path} holds no profiles: {exc!r}", field="profiles") from exc


def _profile(name: str, fields: Mapping[str, Any]) -> Profile:
    try:
        return Profile.model_validate(fields)
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(map(str, (name, *first["loc"])))
        raise ConfigError(f"profile {where}: {first['msg']}", field=where) from exc


def find_profile(name: str, path: Path = PROFILES) -> Profile:
    """Raises ConfigError with the names there are."""
    profiles = read_profiles(path)
    if name not in profiles:
        raise ConfigError(f"no profile {name!r}; there are {', '.join(profiles)}", field="profile")
    return profiles[name]


@dataclass(frozen=True, slots=True)
class Span:
    """A phase on the clock of its run."""

    name: str
    begin_s: float
    end_s: float
    per_s: float
    is_measured: bool

    def holds(self, moment_s: float) -> bool:
        return self.begin_s <= moment_s < self.end_s


def spans(phases: Sequence[Phase], capacity: float | None) -> list[Span]:
    """The phases one after the other."""
    found, begin_s = [], 0.0
    for phase in phases:
        end_s = begin_s + phase.seconds
        found.append(Span(phase.name, begin_s, end_s, phase.per_s(capacity), phase.measured))
        begin_s = end_s
    return found


def moments(spans_: Sequence[Span], rng: random.Random) -> list[float]:
    """When requests are due: Poisson arrivals at each phase's rate, ascending."""
    return [
        span.begin_s + moment
        for span in spans_
        if span.per_s
        for moment in poisson_moments(span.per_s, span.end_s - span.begin_s, rng)
    ]
