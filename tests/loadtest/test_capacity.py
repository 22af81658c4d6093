"""The cost model against tokens of real prompts, FAISS's own sizes, and the page that shows it."""

import json
import random
from dataclasses import replace
from statistics import mean

import faiss
import numpy as np
import pytest

from loadtest.capacity import (
    DEMO,
    EXAMPLE,
    H100_80GB,
    LLAMA_3_8B,
    RANKRAG_V1,
    Workload,
    cases,
    gpu_time,
    index_bytes,
    index_sizes,
    kv_tokens,
    markdown,
    passage_bytes,
    prefill_flops_per_token,
    replicas,
    tokens_per_question,
)
from loadtest.light_checkpoint import MAX_LENGTH
from service.adapters.index_directory import read_corpus
from service.adapters.prompt_files import read_prompts
from service.adapters.tokenizer import PromptTokenizer, open_tokenizer
from service.types import Passage
from tests.integration.conftest import CHECKPOINT, ROOT

TOKENIZER = PromptTokenizer(open_tokenizer(CHECKPOINT), read_prompts("rankrag-v1").prompts)
PASSAGES = read_corpus(ROOT / "demo" / "corpus.jsonl", max_words=100, skip_bad=False).passages
QUESTIONS = [json.loads(row)["question"] for row in (ROOT / "demo" / "questions.jsonl").read_text().splitlines()]
WITHIN = 0.02


def words(text: str) -> int:
    """Tokens of a text alone, without what begins every prompt."""
    return len(TOKENIZER.encode(text)) - len(TOKENIZER.encode(""))


def passage_words(passage: Passage) -> int:
    return words(TOKENIZER.prompts.passage_text(passage.title, passage.text))


def measured(question: str, passages: list[Passage], top_k: int) -> tuple[int, int]:
    """Tokens of the prompts that the service would send: those of scoring, and the answer's."""
    scoring = TOKENIZER.score_prompts(question, passages, max_tokens=MAX_LENGTH)
    texts = [(passage.title, passage.text) for passage in passages[:top_k]]
    answer = TOKENIZER.answer_prompt(question, texts, max_tokens=MAX_LENGTH)
    assert not answer.is_cut
    return sum(len(prompt.ids) for prompt in scoring), len(answer.ids)


@pytest.mark.parametrize(("top_n", "top_k"), [(20, 5), (50, 3), (5, 1), (100, 10)])
def test_tokens_are_those_of_real_prompts(top_n: int, top_k: int) -> None:
    rng = random.Random(top_n)
    asked = [(question, rng.sample(PASSAGES, top_n)) for question in rng.sample(QUESTIONS, 20)]
    found = [measured(question, passages, top_k) for question, passages in asked]
    load = Workload(
        question=mean(words(question) for question, _ in asked),
        passage=mean(passage_words(passage) for _, passages in asked for passage in passages),
        top_n=top_n, top_k=top_k, answer=5,
    )  # fmt: skip
    tokens = tokens_per_question(RANKRAG_V1, load)
    assert tokens.scoring_prompt == pytest.approx(mean(scoring for scoring, _ in found), rel=WITHIN)
    assert tokens.answer_prompt == pytest.approx(mean(answer for _, answer in found), rel=3 * WITHIN)
    assert tokens.completion == top_n + 5


def test_the_demos_lengths_are_as_stated() -> None:
    assert mean(map(words, QUESTIONS)) == pytest.approx(DEMO.question, rel=WITHIN)
    assert mean(map(passage_words, PASSAGES)) == pytest.approx(DEMO.passage, rel=WITHIN)


def test_known_pairs_cost_no_scoring_and_known_prefixes_no_arithmetic() -> None:
    whole = gpu_time(RANKRAG_V1, EXAMPLE, LLAMA_3_8B, H100_80GB)
    half = gpu_time(RANKRAG_V1, replace(EXAMPLE, scored_share=0.5), LLAMA_3_8B, H100_80GB)
    cached = gpu_time(RANKRAG_V1, replace(EXAMPLE, prefix_share=0.5), LLAMA_3_8B, H100_80GB)
    assert half.scoring_s == pytest.approx(whole.scoring_s / 2)
    assert cached.scoring_s == pytest.approx(whole.scoring_s / 2)
    assert half.reading_s == cached.reading_s == whole.reading_s


def test_a_token_costs_two_operations_a_parameter_and_attention_hardly_any() -> None:
    alone, within = (prefill_flops_per_token(LLAMA_3_8B, context) for context in (0, 250))
    assert alone == 2 * 8.03e9
    assert 1 < within / alone < 1.01


def test_one_h100_scores_about_as_many_pairs_as_the_light_engine_stands_for() -> None:
    """`light_checkpoint` says 120 pairs of 250 tokens a second."""
    load = replace(EXAMPLE, passage=250 - RANKRAG_V1.score - EXAMPLE.question, top_n=1)
    assert 1 / gpu_time(RANKRAG_V1, load, LLAMA_3_8B, H100_80GB).scoring_s == pytest.approx(120, rel=0.05)


def test_keys_and_values_of_llama_3_8b() -> None:
    assert LLAMA_3_8B.kv_bytes_per_token == 131_072
    assert kv_tokens(LLAMA_3_8B, H100_80GB) == pytest.approx(427_000, rel=0.01)


def test_replicas_are_whole_and_leave_room() -> None:
    assert replicas(100, 0.1) == 15
    assert replicas(100, 0.1, utilisation=1.0) == 10
    assert replicas(0.1, 0.1) == 1


@pytest.mark.parametrize(("kind", "mib"), [
    ("Flat", 1465), ("SQ8", 366), ("IVF4096,SQ8", 380), ("HNSW32,SQ8", 626), ("IVF4096,PQ48", 60),
])  # fmt: skip
def test_index_sizes_are_those_measured_for_a_million_vectors(kind: str, mib: float) -> None:
    assert index_bytes(1_000_000, 384)[kind] / 2**20 == pytest.approx(mib, rel=0.01)


@pytest.mark.parametrize("kind", ["Flat", "SQ8", "HNSW32,SQ8"])
def test_index_sizes_are_those_that_faiss_writes(kind: str) -> None:
    num, dim = 2000, 64
    index = faiss.index_factory(dim, kind)
    vectors = np.random.default_rng(1).standard_normal((num, dim)).astype(np.float32)
    index.train(vectors)
    index.add(vectors)
    assert faiss.serialize_index(index).nbytes == pytest.approx(index_bytes(num, dim)[kind], rel=0.03)


def test_the_text_of_passages() -> None:
    assert passage_bytes(1_000_000, chars=500, tokens=130) == 1_020_000_000


def test_the_page_shows_what_the_formulas_give() -> None:
    """`python -m loadtest.capacity` prints the same."""
    page = (ROOT / "docs" / "capacity.md").read_text(encoding="utf-8")
    assert markdown(cases(RANKRAG_V1, EXAMPLE, LLAMA_3_8B, H100_80GB, 100)) in page
    assert markdown(index_sizes(1_000_000, 384)) in page
