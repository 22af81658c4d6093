"""The recipe's tests share invented data and a tiny tokenizer; nothing is downloaded."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from service.adapters.prompt_files import read_prompts
from service.core.prompts import PromptSet
from training import toy
from training.encoding import ExampleEncoder
from training.examples import ExampleMaker
from training.models import small_tokenizer
from training.templates import read_templates


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny models on a busy machine: threads would wait for each other most of the time."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with invented files in every format."""
    folder = tmp_path_factory.mktemp("toy")
    toy.write(folder, count=12)
    return folder


@pytest.fixture(scope="session")
def prompts() -> PromptSet:
    return read_prompts("rankrag-v1").prompts


@pytest.fixture(scope="session")
def maker(prompts: PromptSet) -> ExampleMaker:
    return ExampleMaker(prompts, read_templates())


@pytest.fixture(scope="session")
def tokenizer(maker: ExampleMaker) -> PreTrainedTokenizerFast:
    return small_tokenizer(toy.texts(maker.prompts.system), vocab_size=1024)


@pytest.fixture(scope="session")
def encoder(tokenizer: PreTrainedTokenizerFast, prompts: PromptSet) -> ExampleEncoder:
    return ExampleEncoder(tokenizer, prompts, max_length=1024)
