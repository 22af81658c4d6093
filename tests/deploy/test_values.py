"""The chart's schema and README are made of values.yaml, and say no to what nobody reads."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from helm.generate import CHART, DEFINITIONS, SCHEMA, VALUES, generated, read_values
from service.settings import Settings

EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))

DEFAULTS: dict[str, Any] = yaml.safe_load(VALUES.read_text(encoding="utf-8"))


def mistakes(values: dict[str, Any]) -> list[str]:
    validator = jsonschema_rs.Draft7Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    return [f"{'.'.join(map(str, error.instance_path))}: {error.message}" for error in validator.iter_errors(values)]


def with_value(path: str, value: Any) -> dict[str, Any]:
    """The defaults with one key set, which need not be there."""
    values = deepcopy(DEFAULTS)
    *parents, key = path.split(".")
    place = values
    for parent in parents:
        place = place[parent]
    place[key] = value
    return values


@pytest.mark.parametrize("path", sorted(generated()), ids=lambda path: path.name)
def test_generated_files_are_those_of_the_values(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == generated()[path], "run `make helm-docs`"


def test_schema_is_one_and_takes_the_defaults() -> None:
    jsonschema_rs.meta.validate(json.loads(SCHEMA.read_text(encoding="utf-8")))
    assert mistakes(DEFAULTS) == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_have_only_known_keys(path: Path) -> None:
    assert len(EXAMPLES) == 3
    found = mistakes(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert found == []


def mappings(schema: dict[str, Any], path: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Every mapping of the values that the chart owns, by its path."""
    found = [(path, schema)] if "properties" in schema else []
    for name, child in schema.get("properties", {}).items():
        found += mappings(child, f"{path}.{name}" if path else name)
    return found


OWNED = mappings(json.loads(SCHEMA.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", [path for path, _ in OWNED])
def test_no_level_takes_an_unknown_key(path: str) -> None:
    found = mistakes(with_value(f"{path}.nonsense" if path else "nonsense", 1))
    assert len(found) == 1
    assert found[0].startswith(f"{path}: ")
    assert "('nonsense' was unexpected)" in found[0]


def test_every_level_of_the_defaults_is_owned_or_kubernetes() -> None:
    assert {"", "image", "vllm", "vllm.autoscaling", "redis.builtin.auth", "metrics.serviceMonitor"} <= {
        path for path, _ in OWNED
    }
    assert len(OWNED) >= 35


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("replicaCount", "two", "replicaCount"),
        ("image.pullPolicy", "Sometimes", "image.pullPolicy"),
        ("image.digest", "sha256:abc", "image.digest"),
        ("model.source", "s3", "model.source"),
        ("index.size", "10 Gigs", "index.size"),
        ("service.port", 70000, "service.port"),
        ("vllm.gpuMemoryUtilization", 1.5, "vllm.gpuMemoryUtilization"),
        ("vllm.blockSize", 33, "vllm.blockSize"),
        ("vllm.extraArgs", [1], "vllm.extraArgs.0"),
        ("autoscaling.kind", "vpa", "autoscaling.kind"),
        ("redis.builtin.maxMemory", "1Gi", "redis.builtin.maxMemory"),
        ("podLabels", {"team": 1}, "podLabels.team"),
        ("resources", {"limit": {}}, "resources"),
        ("config", {"top_m": 3}, "config"),
        ("config", {"top_n": 0}, "config.top_n"),
        ("config", {"early_exit": True}, "config.early_exit"),
        ("config", {"cache": {"score_ttl": 3}}, "config.cache"),
        ("config", {"vllm": {"url": "http://elsewhere:8000"}}, "config.vllm"),
        ("config", {"checkpoint": "other"}, "config"),
    ],
)
def test_a_wrong_value_is_named(path: str, value: Any, named: str) -> None:
    found = mistakes(with_value(path, value))
    assert {line.partition(":")[0] for line in found} == {named}


def test_config_takes_every_setting_that_the_chart_does_not_make() -> None:
    definitions = json.loads(SCHEMA.read_text(encoding="utf-8"))["definitions"]
    made = {"checkpoint", "checkpoint_revision", "redis_url", "host", "port", "workers", "admin"}
    assert definitions["config"]["properties"].keys() == Settings.model_fields.keys() - made
    assert definitions.keys() > DEFINITIONS.keys()
    given = {"top_n": 50, "min_relevance": 0.0, "early_exit": "on", "cache": {"score_ttl_s": 0}}
    assert mistakes(with_value("config", given)) == []


def test_every_leaf_outside_of_kubernetes_own_is_described() -> None:
    values = {value.path: value for value in read_values(VALUES.read_text(encoding="utf-8"))}
    assert values["replicaCount"].description
    assert "rankrag settings" in values["config"].description
