"""What is exported scores as what was trained, and says which prompts it wants."""

import json
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig

from service.adapters.tokenizer import PromptTokenizer, open_tokenizer
from service.core.prompts import PromptSet
from service.errors import CheckpointError
from training import toy
from training.config import Lora, Recipe
from training.export import DETAILS, export
from training.models import load_weights
from training.smoke import make_base, smoke_recipe
from training.train import train

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def lora_run(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("lora")
    toy.write(folder / "data", count=8)
    recipe = smoke_recipe(folder, 1)
    make_base(recipe)
    stage = recipe.current.model_copy(update={"steps": 2, "learning_rate": 0.02})
    recipe = recipe.model_copy(update={"dev": None, "stages": {1: stage}, "lora": Lora(rank=4, alpha=8)})
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
        train(recipe, resume=False)
    return recipe


def test_the_merged_model_scores_as_the_adapter_did(lora_run: Recipe, tmp_path: Path) -> None:
    assert export(lora_run.run, tmp_path / "exact", dtype=torch.float32) < 1e-5
    assert export(lora_run.run, tmp_path / "half") < 0.02
    base = load_weights(lora_run.model.path, dtype=torch.float32).state_dict()
    merged = load_weights(str(tmp_path / "exact"), dtype=torch.float32).state_dict()
    assert base.keys() == merged.keys()
    assert not torch.equal(base["model.layers.0.mlp.up_proj.weight"], merged["model.layers.0.mlp.up_proj.weight"])


def test_it_holds_what_vllm_and_the_service_read(lora_run: Recipe, tmp_path: Path, prompts: PromptSet) -> None:
    export(lora_run.run, tmp_path)
    assert json.loads((tmp_path / DETAILS).read_text())["prompts"] == "rankrag-v1"
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    generation = GenerationConfig.from_pretrained(tmp_path)
    assert (generation.do_sample, generation.eos_token_id) == (False, 2)
    labels = PromptTokenizer(open_tokenizer(tmp_path), prompts).labels()
    assert labels.true != labels.false


def test_a_run_that_has_not_ended_is_refused(lora_run: Recipe, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not the folder of a stage's run"):
        export(tmp_path, tmp_path / "out")
    (tmp_path / "recipe.json").write_text(lora_run.model_dump_json())
    with pytest.raises(CheckpointError, match="has not ended"):
        export(tmp_path, tmp_path / "out")
