"""A run that stops and goes on ends with the weights of one that never stopped."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from service.errors import ConfigError
from training import toy
from training.arguments import accumulation, training_arguments
from training.config import Lora, Recipe
from training.curves import PICTURE, read_log
from training.data import DRAWN
from training.smoke import make_base, smoke_recipe
from training.train import train

# transformers 5.23 deprecates what trl 1.16 and peft 0.21 still read
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """Stage I on invented instructions: the shortest run there is."""
    made = smoke_recipe(tmp_path, 1)
    toy.write(tmp_path / "data", count=8)
    make_base(made)
    stage = made.current.model_copy(update={"steps": 4, "batch": 2})
    return made.model_copy(
        update={"dev": None, "stages": {1: stage}, "per_device_batch": 1, "save_every": 2, "max_length": 256}
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def test_going_on_gives_the_weights_of_a_run_that_never_stopped(recipe: Recipe, tmp_path: Path) -> None:
    whole = weights(train(recipe, resume=False))
    # As it is after a crash: two steps are done and kept.
    stopped = recipe.run / "checkpoint-4"
    stopped.rename(tmp_path / "gone")
    again = weights(train(recipe, resume=True))
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert [row["step"] for row in read_log(recipe.run) if "loss" in row] == [1, 2, 3, 4]
    assert (recipe.run / PICTURE).exists()


def test_a_run_is_not_begun_over_another(recipe: Recipe) -> None:
    train(recipe, resume=False)
    with pytest.raises(ConfigError, match="go on with --resume"):
        train(recipe, resume=False)


def test_lora_trains_the_adapter_alone(recipe: Recipe) -> None:
    final = train(recipe.model_copy(update={"lora": Lora(rank=2, alpha=4)}), resume=False)
    names = weights(final).keys()
    assert names
    assert all("lora_" in name for name in names)


def test_what_was_drawn_is_kept_with_the_data(recipe: Recipe) -> None:
    train(recipe, resume=False)
    (drawn,) = recipe.run.glob(f"blend-*/{DRAWN}")
    assert '"sft": 8' in drawn.read_text()


def test_the_batch_is_spread_over_the_devices(recipe: Recipe) -> None:
    stage = recipe.current.model_copy(update={"batch": 64})
    large = recipe.model_copy(update={"stages": {1: stage}, "per_device_batch": 2})
    assert (accumulation(large, 1), accumulation(large, 8)) == (32, 4)
    with pytest.raises(ConfigError, match=r"stages\.1\.batch 64 is no multiple of per_device_batch 2 on 3 devices"):
        accumulation(large, 3)


def test_trl_is_told_what_the_recipe_says(recipe: Recipe) -> None:
    arguments = training_arguments(recipe)
    assert (arguments.adam_beta1, arguments.adam_beta2, arguments.learning_rate) == (0.9, 0.98, 1e-3)
    assert (arguments.completion_only_loss, arguments.max_length, arguments.packing) == (True, None, False)
    assert (arguments.max_steps, arguments.seed, arguments.data_seed) == (4, 7, 7)
