import pytest

from training.config import Hardware, Size
from training.cost import Workload, estimate, training_flops

LLAMA = Size(parameters=8.03e9, layers=32, hidden=4096)


def test_without_attention_it_is_six_operations_a_parameter_and_token() -> None:
    work = Workload(num_tokens=1e6, mean_length=0, is_lora=False, has_checkpointing=False)
    assert training_flops(LLAMA, work) == pytest.approx(6 * 8.03e9 * 1e6)


@pytest.mark.parametrize(
    ("is_lora", "has_checkpointing", "factor"), [(False, True, 8), (True, True, 6), (True, False, 4)]
)
def test_lora_spares_a_pass_and_checkpointing_adds_one(is_lora: bool, has_checkpointing: bool, factor: int) -> None:
    assert training_flops(LLAMA, Workload(1, 0, is_lora, has_checkpointing)) == pytest.approx(factor * 8.03e9)


def test_attention_is_two_layers_hidden_length_a_token_and_pass() -> None:
    with_attention = training_flops(LLAMA, Workload(1, 1000, False, False))
    assert with_attention - 6 * 8.03e9 == pytest.approx(3 * 2 * 32 * 4096 * 1000)


def test_hours_and_price() -> None:
    hardware = Hardware(count=8, tflops=1000, utilisation=0.5, price_per_hour=(2, 4))
    work = Workload(num_tokens=1e9, mean_length=0, is_lora=False, has_checkpointing=False)
    cost = estimate(Size(parameters=3e9, layers=1, hidden=1), work, hardware)
    assert cost.device_hours == pytest.approx(10.0)
    assert cost.hours(8) == pytest.approx(1.25)
    assert cost.price == pytest.approx((20.0, 40.0))
