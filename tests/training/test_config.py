"""A wrong configuration is refused with the key that is wrong."""

from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig

from service.errors import ConfigError
from training.config import read_recipe
from training.smoke import CONFIGS

SMOKE = CONFIGS / "smoke.yaml"


@pytest.mark.parametrize("name", ["smoke", "llama3-8b-lora", "llama3-8b-full"])
@pytest.mark.parametrize("stage", [1, 2])
def test_the_shipped_ones_are_right(name: str, stage: int) -> None:
    recipe = read_recipe(CONFIGS / f"{name}.yaml", stage)
    assert recipe.stage == stage
    assert (recipe.optimizer.beta1, recipe.optimizer.beta2) == (0.9, 0.98)


def test_the_full_one_has_the_papers_hyperparameters() -> None:
    stages = read_recipe(CONFIGS / "llama3-8b-full.yaml").stages
    first, second = stages[1], stages[2]
    assert (first.steps, first.batch, first.learning_rate) == (1000, 128, 5e-6)
    assert (second.steps, second.batch, second.learning_rate) == (3300, 64, 3e-7)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"learning_rate": 1}, "learning_rate: Extra inputs"),
        ({"lora": {"rank": 0}}, r"lora\.rank"),
        ({"stage": 3}, "stage: Input should be 1 or 2"),
        ({"stages": {1: {"steps": 1, "batch": 1, "learning_rate": 0.1}}}, "stages has no stage 2"),
        ({"sources": {"squad": {"format": "squid", "path": "x"}}}, r"sources\.squad: .*'squad'"),
        ({"sources": {"m": {"format": "msmarco"}}}, r"sources\.m\.msmarco: .*exactly one"),
        ({"sources": {"m": {"format": "msmarco", "qrels": "x"}}}, "ids need `queries` and `collection`"),
        ({"model": {"path": "x", "weights": "bfloat16"}}, "small steps"),
        ({"optimizer": {"beta2": 1.5}}, r"optimizer\.beta2"),
    ],
)
def test_the_key_is_named(tmp_path: Path, changes: dict[str, object], key: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(SMOKE.read_text()) | changes))
    with pytest.raises(ConfigError, match=key):
        read_recipe(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        read_recipe(tmp_path / "none.yaml")


def test_a_recipe_survives_being_kept_as_json() -> None:
    recipe = read_recipe(SMOKE)
    assert type(recipe).model_validate_json(recipe.model_dump_json()) == recipe


def test_accelerate_understands_the_launch_file() -> None:
    launch = ClusterConfig.from_yaml_file(str(CONFIGS / "fsdp-8gpu.yaml"))
    assert launch.num_processes == 8
    assert launch.fsdp_config["fsdp_version"] == 2
