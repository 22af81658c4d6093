"""A recipe in trl's words."""

from typing import Any

import torch
from trl import SFTConfig

from service.errors import ConfigError
from training.config import Recipe


def accumulation(recipe: Recipe, num_processes: int) -> int:
    """Micro-batches per optimiser step, so that `batch` examples make one step on any number of devices."""
    steps, rest = divmod(recipe.current.batch, recipe.per_device_batch * num_processes)
    if rest or not steps:
        raise ConfigError(
            f"stages.{recipe.stage}.batch {recipe.current.batch} is no multiple of "
            f"per_device_batch {recipe.per_device_batch} on {num_processes} devices"
        )
    return steps


def training_arguments(recipe: Recipe, **changes: Any) -> SFTConfig:
    """What trl is told. `max_length` is None: examples come cut to length, with their answers whole."""
    stage, optimizer, has_dev = recipe.current, recipe.optimizer, recipe.dev is not None
    settings: dict[str, Any] = {
        "output_dir": str(recipe.run), "seed": recipe.seed, "data_seed": recipe.seed,
        "max_steps": stage.steps, "per_device_train_batch_size": recipe.per_device_batch,
        "per_device_eval_batch_size": recipe.per_device_batch,
        "learning_rate": stage.learning_rate, "lr_scheduler_type": optimizer.schedule,
        "warmup_steps": min(optimizer.warmup_steps, stage.steps // 2),
        "optim": optimizer.name, "adam_beta1": optimizer.beta1, "adam_beta2": optimizer.beta2,
        "weight_decay": optimizer.weight_decay, "max_grad_norm": optimizer.max_grad_norm,
        "bf16": recipe.precision == "bfloat16", "use_cpu": not torch.cuda.is_available(),
        "activation_checkpointing": recipe.gradient_checkpointing,
        "completion_only_loss": True, "max_length": None,
        "save_steps": recipe.save_every, "save_total_limit": 2,
        "eval_strategy": "steps" if has_dev else "no", "eval_steps": recipe.dev.every if recipe.dev else None,
        "eval_on_start": has_dev, "logging_steps": max(min(10, stage.steps // 10), 1), "report_to": [],
    }  # fmt: skip
    return SFTConfig(**(settings | changes))
