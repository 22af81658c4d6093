"""Helm itself, as its Go library in a wheel: what `helm template` and `helm lint` do, without the command."""

from collections.abc import Mapping
from typing import Any

import helm_python
import yaml

from helm.generate import CHART
from tests.deploy.manifests import Manifests

WARNING = 2


class ChartError(Exception):
    """The values don't fit: Helm's own message."""


def render(values: Mapping[str, Any], *, name: str, namespace: str) -> Manifests:
    """Every object, the tests' pods among them.

    Raises:
        ChartError: the schema or a template refuses the values.
    """
    try:
        files: dict[str, str] = helm_python.Chart.load(CHART).render(dict(values), name=name, namespace=namespace)
    except (helm_python.HelmValuesError, helm_python.HelmRenderError) as exc:
        raise ChartError(str(exc)) from exc
    texts = [text for path, text in sorted(files.items()) if path.endswith(".yaml")]
    return Manifests([document for text in texts for document in yaml.load_all(text, _UniqueKeys) if document])


def notes(values: Mapping[str, Any], *, name: str, namespace: str) -> str:
    """What is shown after an installation."""
    files: dict[str, str] = helm_python.Chart.load(CHART).render(dict(values), name=name, namespace=namespace)
    return files["rankrag/templates/NOTES.txt"]


def lint(values: Mapping[str, Any]) -> list[str]:
    """Warnings and errors of a strict lint."""
    report: dict[str, Any] = helm_python.lint(CHART, dict(values), strict=True)
    found = [f"{m['path']}: {m['error']}" for m in report["messages"] if m["severity"] >= WARNING]
    return [*found, *map(str, report["errors"])]


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that a mapping has twice: YAML readers differ in which one counts."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        if repeated := {key for key in keys if keys.count(key) > 1}:
            raise yaml.constructor.ConstructorError(None, None, f"{sorted(repeated)} twice", node.start_mark)
        return super().construct_mapping(node, deep)
