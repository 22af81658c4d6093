"""Prompt sets and golden pairs from YAML files."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import yaml

from service.adapters.engine import GoldenPair
from service.core.cache_keys import digest
from service.core.prompts import PromptSet, parse_prompt_set
from service.errors import ConfigError


@dataclass(frozen=True, slots=True)
class PromptFile:
    """A prompt set and the digest of its text: an edit that forgot the version still changes cache keys."""

    prompts: PromptSet
    digest: str


def read_prompts(name: str) -> PromptFile:
    """A set that comes with the service, by name, or any YAML file, by path.

    Raises:
        ConfigError: there is no such set or file, or it is malformed.
    """
    path = Path(name)
    try:
        text = path.read_text("utf-8") if path.suffix else _own(f"{name}.yaml")
        return PromptFile(parse_prompt_set(yaml.safe_load(text)), digest(text))
    except OSError as exc:
        raise ConfigError(f"prompts {name!r}: {exc.strerror or exc}", field="prompts") from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise ConfigError(f"prompts {name!r} is not YAML: {exc}", field="prompts") from exc


def read_golden() -> list[GoldenPair]:
    """The golden pairs that come with the service."""
    return [GoldenPair(**pair) for pair in yaml.safe_load(_own("golden.yaml"))]


def _own(name: str) -> str:
    return resources.files("service").joinpath("prompts", name).read_text(encoding="utf-8")
