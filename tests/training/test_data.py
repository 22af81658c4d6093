"""Sources are those that the blend names, and data is made again when anything that it is made of changes."""

from pathlib import Path

import pytest

from service.errors import ConfigError
from training import toy
from training.config import Recipe
from training.data import blend_digest, read_sources
from training.smoke import smoke_recipe


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    toy.write(tmp_path / "data", count=6)
    return smoke_recipe(tmp_path, 2)


def test_a_stage_reads_what_its_lines_name(recipe: Recipe) -> None:
    first = recipe.model_copy(update={"stage": 1})
    assert set(read_sources(first)) == {"sft"}


def test_a_source_that_no_line_names_is_refused(recipe: Recipe) -> None:
    slip = recipe.model_copy(update={"sources": {"squadd": recipe.sources["squad"]}})
    with pytest.raises(ConfigError, match=r"sources\.squadd: no line of the blend has this source"):
        read_sources(slip)


def test_the_digest_follows_settings_tokenizer_and_files(recipe: Recipe) -> None:
    digest = blend_digest(recipe, "t")
    assert blend_digest(recipe, "t") == digest
    others = [
        blend_digest(recipe, "u"),
        blend_digest(recipe.model_copy(update={"seed": 8}), "t"),
        blend_digest(recipe.model_copy(update={"max_length": 600}), "t"),
    ]
    with (recipe.data / "triples.tsv").open("a") as file:
        file.write("q\tp\tn\n")
    others.append(blend_digest(recipe, "t"))
    assert len({digest, *others}) == 5
