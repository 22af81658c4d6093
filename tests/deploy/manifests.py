"""What a chart rendered, to be asked for by kind and name; and whether Kubernetes would take it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import kubernetes_validate

Manifest = dict[str, Any]

SCHEMAS = Path(__file__).parent / "schemas"
# The oldest that the chart takes, and the newest that there is a schema of.
KUBERNETES = ("1.27", "1.37")


@dataclass(frozen=True, slots=True)
class Manifests:
    """Objects in the order in which they were rendered."""

    objects: Sequence[Manifest]

    def __iter__(self) -> Iterator[Manifest]:
        return iter(self.objects)

    def get(self, kind: str, name: str) -> Manifest:
        found = [o for o in self.objects if (o["kind"], o["metadata"]["name"]) == (kind, name)]
        assert len(found) == 1, f"{len(found)} of {kind} {name} among {self.names}"
        return found[0]

    def has(self, kind: str, name: str | None = None) -> bool:
        return any(o["kind"] == kind and name in (None, o["metadata"]["name"]) for o in self.objects)

    @property
    def names(self) -> list[tuple[str, str]]:
        return sorted((o["kind"], o["metadata"]["name"]) for o in self.objects)

    def pods(self) -> Iterator[tuple[str, Manifest]]:
        """The name and the spec of every pod, whatever makes it."""
        for o in self.objects:
            if o["kind"] == "Pod":
                yield o["metadata"]["name"], o["spec"]
            elif "template" in o.get("spec", {}):
                yield o["metadata"]["name"], o["spec"]["template"]["spec"]

    def pod(self, name: str) -> Manifest:
        return dict(self.pods())[name]


def environment(container: Manifest) -> dict[str, Any]:
    """Values by name; of what comes from elsewhere, the secret's name and key."""
    found = {}
    for variable in container.get("env", []):
        reference = variable.get("valueFrom", {}).get("secretKeyRef")
        found[variable["name"]] = (reference["name"], reference["key"]) if reference else variable["value"]
    return found


def validate(manifest: Manifest) -> None:
    """Raises where a field is unknown, missing or of the wrong kind."""
    _validate(json.dumps(manifest, sort_keys=True))


@cache  # most objects are the same in most tests, and Kubernetes' definitions are read anew for each
def _validate(text: str) -> None:
    manifest: Manifest = json.loads(text)
    own = SCHEMAS / f"{manifest['kind']}.json"
    if own.exists():
        jsonschema_rs.Draft7Validator(json.loads(own.read_text(encoding="utf-8"))).validate(manifest)
    else:
        for version in KUBERNETES:
            kubernetes_validate.validate(manifest, version, strict=True)
