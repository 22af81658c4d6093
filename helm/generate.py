"""`make helm-docs`: values.schema.json and the table of README.md, both of the comments in values.yaml.

A key's comment may hold a description (from `# --` on) and JSON that is merged into its schema (`# @schema`).
Every mapping that values.yaml spells out admits no other key. `config` has the schema of the service's own settings.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from service.settings import Settings

CHART = Path(__file__).parent / "rankrag"
VALUES, SCHEMA, README = CHART / "values.yaml", CHART / "values.schema.json", CHART / "README.md"
MARKS = "<!-- values -->", "<!-- /values -->"

Schema = dict[str, Any]

# Mappings that Kubernetes owns: their keys are checked by the API server and by `make helm-check`, not here.
STRING_MAPS = {
    "annotations", "commonAnnotations", "commonLabels", "env", "labels", "nodeSelector", "podAnnotations", "podLabels",
}  # fmt: skip
OPEN_MAPS = {"affinity", "behavior", "podSecurityContext", "securityContext"}
DEFINITIONS: dict[str, Schema] = {
    "port": {"type": "integer", "minimum": 1, "maximum": 65535},
    "quantity": {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$"},
    "resources": {
        "type": "object",
        "properties": {"requests": {"type": "object"}, "limits": {"type": "object"}, "claims": {"type": "array"}},
        "additionalProperties": False,
    },
}
# What the chart itself sets, from other values: not for `config`.
MADE_BY_THE_CHART = {
    "": ("checkpoint", "checkpoint_revision", "redis_url", "host", "port", "workers", "admin"),
    "VllmSettings": ("url", "resolve", "api_key", "priority_scheduling"),
    "IndexSettings": ("path",),
    "AuthSettings": ("mode", "key_file"),
    "TlsSettings": ("cert_file", "key_file"),
}


@dataclass(frozen=True, slots=True)
class Value:
    """One key of values.yaml; `path` is what `helm --set` takes."""

    path: str
    default: Any
    description: str
    schema: Schema
    children: tuple["Value", ...]

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]


def read_values(text: str) -> tuple[Value, ...]:
    """The keys of a values file, in its order."""
    node = yaml.compose(text, yaml.SafeLoader)
    assert isinstance(node, yaml.MappingNode)
    return tuple(_children(node, text.splitlines(), ""))


def _children(node: yaml.MappingNode, lines: list[str], parent: str) -> Iterator[Value]:
    for key, value in node.value:
        path = f"{parent}.{key.value}" if parent else key.value
        description, schema = _comment(lines, key.start_mark.line)
        is_block = isinstance(value, yaml.MappingNode) and not value.flow_style
        children = tuple(_children(value, lines, path)) if is_block else ()
        yield Value(path, yaml.safe_load(yaml.serialize(value)), description, schema, children)


def _comment(lines: list[str], number: int) -> tuple[str, Schema]:
    """The description and the schema in the comment that ends above line `number`."""
    first = number
    while first > 0 and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    texts = [line.strip().removeprefix("#").strip() for line in lines[first:number]]
    schema: Schema = {}
    for text in texts:
        if text.startswith("@schema"):
            schema |= json.loads(text.removeprefix("@schema"))
    described = " ".join(text for text in texts if not text.startswith("@schema"))
    return (described.removeprefix("--").strip() if described.startswith("--") else ""), schema


def make_schema(values: tuple[Value, ...]) -> Schema:
    """Of the whole file; draft-07, as Helm reads it."""
    found = _closed(values)
    found["properties"]["global"] = {"type": "object", "description": "What a parent chart shares; unused here."}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart rankrag",
        **found,
        "definitions": {**DEFINITIONS, **_settings_definitions()},
    }


def _closed(values: tuple[Value, ...]) -> Schema:
    properties = {value.name: _property(value) for value in values}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _property(value: Value) -> Schema:
    described = {"description": value.description} if value.description else {}
    if "$ref" in value.schema:
        return {**described, "$ref": value.schema["$ref"]}
    return {**described, **_inferred(value), **value.schema}


def _inferred(value: Value) -> Schema:
    if value.name == "resources":
        return {"$ref": "#/definitions/resources"}
    if value.name in STRING_MAPS:
        return {"type": "object", "additionalProperties": {"type": "string"}}
    if value.name in OPEN_MAPS:
        return {"type": "object"}
    if value.children:
        return _closed(value.children)
    return _scalar_or_list(value)


def _scalar_or_list(value: Value) -> Schema:
    match value.default:
        case bool():
            return {"type": "boolean"}
        case int():
            return {"type": "integer"}
        case float():
            return {"type": "number"}
        case str():
            return {"type": "string"}
        case list():
            return {"type": "array", "items": {"type": "object"}}
        case None if "type" in value.schema:
            return {}
        case _:
            raise ValueError(f"{VALUES.name}: {value.path} needs a `# @schema` with its type")


def _settings_definitions() -> dict[str, Schema]:
    """The service's settings as definitions, of which `config` is the whole, less what the chart sets itself."""
    whole = Settings.model_json_schema(ref_template="#/definitions/{model}")
    definitions: dict[str, Schema] = {**whole.pop("$defs"), "": {**whole, "additionalProperties": False}}
    for name, fields in MADE_BY_THE_CHART.items():
        for field in fields:
            definitions.get(name, {}).get("properties", {}).pop(field, None)
    definitions["config"] = definitions.pop("")
    return {name: _without_defaults(definition) for name, definition in definitions.items()}


def _without_defaults(definition: Schema) -> Schema:
    """A section's default is an object of all its fields: noise, and the chart's own would be refused in it."""
    properties = {
        name: {key: value for key, value in schema.items() if key not in ("default", "title")}
        for name, schema in definition["properties"].items()
    }
    return {**definition, "properties": properties}


def make_table(values: tuple[Value, ...]) -> str:
    """Of every leaf, as Markdown."""
    rows = [
        f"| `{leaf.path}` | `{_shown(leaf.default)}` | {leaf.description.replace('|', chr(92) + '|')} |"
        for value in values
        for leaf in _leaves(value)
    ]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows])


def _leaves(value: Value) -> Iterator[Value]:
    is_inner = value.children and value.name not in {"resources", *STRING_MAPS, *OPEN_MAPS}
    if is_inner and "$ref" not in value.schema:
        for child in value.children:
            yield from _leaves(child)
    else:
        yield value


def _shown(default: Any) -> str:
    return json.dumps(default, ensure_ascii=False)


def generated() -> dict[Path, str]:
    """The text of each file that this module writes."""
    values = read_values(VALUES.read_text(encoding="utf-8"))
    first, last = MARKS
    table = f"{first}\n{make_table(values)}\n{last}"
    pattern = re.compile(f"{re.escape(first)}.*{re.escape(last)}", re.DOTALL)
    readme = pattern.sub(lambda _: table, README.read_text(encoding="utf-8"))
    return {SCHEMA: json.dumps(make_schema(values), indent=2, ensure_ascii=False) + "\n", README: readme}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    for path, text in generated().items():
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
