"""How long a run takes and what it costs, from tokens and operations. Estimates, not measurements."""

from dataclasses import dataclass

from training.config import Hardware, Size


@dataclass(frozen=True, slots=True)
class Workload:
    """`num_tokens` are computed, padding included; `mean_length` is what attention sees."""

    num_tokens: float
    mean_length: float
    is_lora: bool
    has_checkpointing: bool


@dataclass(frozen=True, slots=True)
class Cost:
    flops: float
    device_hours: float
    price: tuple[float, float]

    def hours(self, devices: int) -> float:
        return self.device_hours / devices


def training_flops(size: Size, work: Workload) -> float:
    """Forward and backward of all tokens.

    A forward pass is 2 N per token and 2 layers·hidden·length of causal attention (scores and mixing, halved by the
    mask). The backward pass is one more for the activations and one more for the weights, which LoRA spares;
    gradient checkpointing repeats the forward pass.
    """
    passes = 2 + (not work.is_lora) + work.has_checkpointing
    forward = 2 * size.parameters + 2 * size.layers * size.hidden * work.mean_length
    return passes * forward * work.num_tokens


def estimate(size: Size, work: Workload, hardware: Hardware) -> Cost:
    """Hours of one device at the assumed utilisation; evaluation, loading and saving not counted."""
    flops = training_flops(size, work)
    hours = flops / (hardware.tflops * 1e12 * hardware.utilisation) / 3600
    low, high = hardware.price_per_hour
    return Cost(flops, hours, (hours * low, hours * high))
