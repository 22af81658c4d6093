"""Profiles as data: those that ship are sound, and a mistake is named."""

import random
from pathlib import Path

import pytest

from loadtest.profiles import Phase, Slo, Threshold, find_profile, moments, read_profiles, spans
from service.errors import ConfigError

PHASE = "{name: a, seconds: 1, rate: 1}"


def write(path: Path, phases: str, more: str = "") -> Path:
    path.write_text(
        "profiles:\n  own:\n    about: x\n    mix: {answer: 1}\n    zipf: 1\n    cache: true\n    top_n: 1\n"
        "    top_k: 1\n    max_tokens: 1\n    documents: 1\n    deadline_s: 1\n    slo: {e2e_s: 1, ttft_s: 1}\n"
        f"    phases: [{phases}]\n{more}"
    )
    return path


def test_those_that_ship_are_sound() -> None:
    profiles = read_profiles()
    assert list(profiles) == ["smoke", "steady", "spike", "overload", "soak"]
    assert profiles["smoke"].seconds < 30
    assert not profiles["smoke"].needs_capacity
    assert all(profile.thresholds for profile in profiles.values())


def test_the_soak_is_half_an_hour_at_70_percent() -> None:
    soak = find_profile("soak")
    (phase,) = [phase for phase in soak.phases if phase.measured]
    assert (phase.seconds, phase.load) == (1800, 0.7)
    assert soak.thresholds["soak.rss_growth"].at_most == 0.05
    assert all(soak.thresholds[f"rest_{name}_growth"].at_most == 0 for name in ("tasks", "fds", "connections"))


def test_an_unknown_profile_is_an_error_with_the_names_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no profile 'smok'; there are smoke, steady"):
        find_profile("smok")


@pytest.mark.parametrize(
    ("phases", "more", "message"),
    [
        ("{name: a, seconds: 0}", "", r"own\.phases\.0\.seconds"),
        ("{name: a, seconds: 1, rate: 1, load: 1}", "", r"own\.phases\.0.*not both"),
        ("{name: a, second: 1}", "", r"own\.phases\.0\.seconds"),
        ("", "", r"own\.phases"),
        (PHASE, "    thresholds: {errors: {}}\n", r"own\.thresholds\.errors.*is missing"),
        (PHASE, "    surprise: 1\n", r"own\.surprise"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, phases: str, more: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_profiles(write(tmp_path / "profiles.yaml", phases, more))


@pytest.mark.parametrize("text", ["", "[1]", "profiles: 3", "a: {"])
def test_a_file_without_profiles_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "profiles.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"profiles\.yaml holds no profiles"):
        read_profiles(path)


def test_a_load_needs_a_capacity() -> None:
    phase = Phase(name="a", seconds=1, load=0.5)
    assert phase.per_s(8.0) == 4.0
    with pytest.raises(ConfigError, match="--capacity"):
        phase.per_s(None)


def test_arrivals_are_at_each_phases_rate_and_the_same_for_the_same_seed() -> None:
    phases = [
        Phase(name="a", seconds=100, rate=5),
        Phase(name="rest", seconds=50),
        Phase(name="b", seconds=100, load=2),
    ]
    laid = spans(phases, 10.0)
    due = moments(laid, random.Random(3))
    counts = [sum(span.holds(moment) for moment in due) for span in laid]
    assert due == sorted(due)
    assert counts[0] == pytest.approx(500, rel=0.15)
    assert counts[1] == 0
    assert counts[2] == pytest.approx(2000, rel=0.15)
    assert moments(laid, random.Random(3)) == due
    assert moments(laid, random.Random(4)) != due


def test_thresholds_are_verdicts() -> None:
    both = Threshold(at_least=1, at_most=2)
    assert [verdict.is_passed for verdict in both.verdicts("x", 1.5)] == [True, True]
    assert [verdict.is_passed for verdict in both.verdicts("x", 3.0)] == [True, False]
    assert [verdict.is_passed for verdict in both.verdicts("x", None)] == [False, False]


def test_an_slo_is_in_seconds() -> None:
    assert Slo(e2e_s=3, ttft_s=1).e2e_s == 3
