"""The bench's own checkpoint: light, readable, and right about the golden pairs, or the service would refuse it."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from loadtest.light_checkpoint import make_light_checkpoint
from service.adapters.prompt_files import read_golden, read_prompts
from service.adapters.tokenizer import PromptTokenizer, open_tokenizer

DEMO = Path("models/demo")


def open_prompts(directory: Path) -> PromptTokenizer:
    return PromptTokenizer(open_tokenizer(directory), read_prompts("rankrag-v1").prompts)


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_light_checkpoint(open_prompts(DEMO), DEMO, tmp_path_factory.mktemp("light"))


def test_it_is_right_about_the_golden_pairs_as_it_is_stored(light: Path) -> None:
    model, tokenizer = LlamaForCausalLM.from_pretrained(light, dtype=torch.float32), open_prompts(light)
    labels = tokenizer.labels()

    def margin(question: str, text: str) -> float:
        ids = tokenizer.score_prompt(question, "", text, max_tokens=2047).ids
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1]
        return float(logits[labels.true] - logits[labels.false])

    assert all(margin(pair.question, pair.relevant) > margin(pair.question, pair.irrelevant) for pair in read_golden())


def test_it_is_a_fraction_of_the_demo_checkpoint(light: Path) -> None:
    sizes = [(directory / "model.safetensors").stat().st_size for directory in (light, DEMO)]
    assert sizes[0] < sizes[1] / 3


def test_it_can_be_made_again_in_the_same_place(light: Path) -> None:
    before = (light / "model.safetensors").read_bytes()
    make_light_checkpoint(open_prompts(DEMO), DEMO, light)
    assert (light / "model.safetensors").read_bytes() == before
