"""Make of a finished run a directory that vLLM serves as is: `python -m training.export RUN OUT`.

LoRA is merged. The exported model is loaded again and must give what the trained one gives.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from service.adapters.prompt_files import read_prompts
from service.core.prompts import PromptSet
from service.core.scoring import score_from_logprobs
from service.errors import CheckpointError, RankRAGError
from training.config import Recipe
from training.dev import last_logits
from training.encoding import ExampleEncoder
from training.models import load_tokenizer, load_weights, pad_id
from training.train import FINAL, RECIPE

DETAILS = "rankrag.json"
_ADAPTER = "adapter_config.json"
_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
# P(True) may move by this much: bfloat16 weights have 8 bits, and a merge rounds.
_TOLERANCES = {torch.bfloat16: 0.02, torch.float32: 0.001}
_PROBES = (
    ("In which year was the Arden Bridge opened?", "The Arden Bridge was opened in 1931."),
    ("How deep is Lake Sorvo?", "The Arden Bridge was opened in 1931."),
)


def export(run: Path, out: Path, *, dtype: torch.dtype = torch.bfloat16) -> float:
    """Write weights, tokenizer, generation settings and `rankrag.json`; the largest difference of P(True) found.

    Raises:
        CheckpointError: there is no finished run, or the export does not give what the run's model gives.
    """
    recipe = read_run(run)
    tokenizer = load_tokenizer(str(run / FINAL))
    prompts = read_prompts(recipe.prompts)
    encoder = ExampleEncoder(tokenizer, prompts.prompts, recipe.max_length)
    model = load_trained(run, recipe)
    before = relevances(model, tokenizer, encoder, prompts.prompts)
    merged: Any = merge(model)
    merged = merged.to(dtype)
    merged.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=pad_id(tokenizer),
        do_sample=False,
    )  # fmt: skip
    merged.save_pretrained(out)
    tokenizer.save_pretrained(out)
    details = {"prompts": prompts.prompts.id, "stage": recipe.stage, "base": recipe.model.path,
               "recipe": hashlib.sha256((run / RECIPE).read_bytes()).hexdigest()[:16]}  # fmt: skip
    (out / DETAILS).write_text(json.dumps(details, indent=2) + "\n", encoding="utf-8")
    for path in out.glob("*.safetensors"):
        path.chmod(0o644)  # saved readable by its owner alone
    return check(out, before, encoder, prompts.prompts, _TOLERANCES[dtype])


def read_run(run: Path) -> Recipe:
    """The recipe of a run that has ended."""
    try:
        recipe = Recipe.model_validate_json((run / RECIPE).read_bytes())
    except OSError as exc:
        raise CheckpointError(f"{run} is not the folder of a stage's run: {exc}") from exc
    if not (run / FINAL).is_dir():
        raise CheckpointError(f"{run} has no final weights: the run has not ended")
    return recipe


def load_trained(run: Path, recipe: Recipe) -> PreTrainedModel | PeftModel:
    """The final model in float32, its adapter still apart."""
    final = run / FINAL
    if not (final / _ADAPTER).exists():
        return load_weights(str(final), dtype=torch.float32)
    base = load_weights(recipe.start, dtype=torch.float32, revision=recipe.model.revision)
    return PeftModel.from_pretrained(base, final)


def merge(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    merged: PreTrainedModel = model.merge_and_unload() if isinstance(model, PeftModel) else model
    return merged


@torch.inference_mode()
def relevances(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerFast, encoder: ExampleEncoder, prompts: PromptSet
) -> list[float]:
    """P(True) of the probes."""
    ids = [encoder.tokenizer.encode(prompts.score_prompt(*probe).text) for probe in _PROBES]
    labels = encoder.tokenizer.labels()
    logprobs = last_logits(model, ids, pad_id(tokenizer)).log_softmax(-1)
    pairs = logprobs[:, [labels.true, labels.false]].tolist()
    return [score_from_logprobs(true, false).relevance for true, false in pairs]


def check(out: Path, wanted: list[float], encoder: ExampleEncoder, prompts: PromptSet, tolerance: float) -> float:
    """Load the export again, tokenizer too, and compare."""
    model = load_weights(str(out), dtype=torch.float32)
    found = relevances(model, load_tokenizer(str(out)), encoder, prompts)
    difference = max(abs(one - other) for one, other in zip(wanted, found, strict=True))
    if difference > tolerance:
        raise CheckpointError(f"{out} scores otherwise than the run: P(True) differs by {difference:.4f}")
    return difference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a stage, OUTPUT/stage-N")
    parser.add_argument("out", type=Path)
    parser.add_argument("--dtype", choices=sorted(_DTYPES), default="bfloat16")
    arguments = parser.parse_args()
    try:
        difference = export(arguments.run, arguments.out, dtype=_DTYPES[arguments.dtype])
    except RankRAGError as exc:
        sys.exit(exc.message)
    print(f"{arguments.out}: reloaded, P(True) within {difference:.5f} of the run's")


if __name__ == "__main__":
    main()
