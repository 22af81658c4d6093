"""What a question costs and how many GPUs a load needs: the formulas of docs/capacity.md. Pure; nothing is measured.

`python -m loadtest.capacity --help` computes another case.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Annotated

import typer
from rich.console import Console

from loadtest.measures import Table
from loadtest.report import show_table

MEBIBYTE = 2**20


@dataclass(frozen=True, slots=True)
class Prompts:
    """Tokens of the prompt set's own words, by the served tokenizer.

    A ranking prompt has `score` beside question and passage, an answer's prompt has `answer`, and `per_passage`
    more before each of its passages ("Passage 3: ").
    """

    score: float
    answer: float
    per_passage: float


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of question. Lengths in tokens, means over questions and passages.

    `scored_share` of its pairs are computed: the rest come from the score cache or are left out by early exit.
    `prefix_share` of the prompt tokens of those are in vLLM's prefix cache already.
    """

    question: float
    passage: float
    top_n: int
    top_k: int
    answer: float
    scored_share: float = 1.0
    prefix_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Tokens:
    """Of one question, before any cache but that of scores."""

    scoring_prompt: float
    answer_prompt: float
    completion: float

    @property
    def prompt(self) -> float:
        return self.scoring_prompt + self.answer_prompt


def tokens_per_question(prompts: Prompts, load: Workload) -> Tokens:
    """N pairs of (fixed words + question + passage), each with one completion token, and one prompt of k passages."""
    num_pairs = load.top_n * load.scored_share
    pair = prompts.score + load.question + load.passage
    answer = prompts.answer + load.question + load.top_k * (prompts.per_passage + load.passage)
    return Tokens(num_pairs * pair, answer, num_pairs + load.answer)


@dataclass(frozen=True, slots=True)
class Model:
    """A dense decoder. `kv_heads` × `head_dim` is the width of its keys, and of its values."""

    name: str
    params: float
    layers: int
    hidden: int
    kv_heads: int
    head_dim: int
    bytes_per_value: int = 2

    @property
    def kv_bytes_per_token(self) -> int:
        """A key and a value in every layer."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.bytes_per_value

    @property
    def weight_bytes(self) -> float:
        return self.params * self.bytes_per_value


def prefill_flops_per_token(model: Model, context: float) -> float:
    """2 a parameter, and 2 × layers × context × hidden for attention (Kaplan et al. 2020, arXiv 2001.08361, table 1).

    `context` is how many tokens one attends to: half of the prompt on average.
    """
    return 2 * model.params + 2 * model.layers * context * model.hidden


@dataclass(frozen=True, slots=True)
class Gpu:
    """`peak_flops` are dense ones at the model's precision; the efficiencies are the parts of peak that are reached."""

    name: str
    peak_flops: float
    bytes_per_s: float
    memory_bytes: float
    prefill_efficiency: float = 0.5
    decode_efficiency: float = 0.6


LLAMA_3_8B = Model("Llama-3-8B", params=8.03e9, layers=32, hidden=4096, kv_heads=8, head_dim=128)
H100_80GB = Gpu("H100 80GB SXM", peak_flops=989e12, bytes_per_s=3.35e12, memory_bytes=80e9)

# Of rankrag-v1 with the demo checkpoint's tokenizer, and what its questions and passages come to
# (tests/loadtest/test_capacity.py measures them anew). A larger vocabulary makes fewer tokens of the same words.
RANKRAG_V1 = Prompts(score=84.2, answer=69.2, per_passage=4.45)
DEMO = Workload(question=13.4, passage=95.7, top_n=20, top_k=5, answer=5)
# Passages of 100 words at 1.3 tokens a word.
EXAMPLE = Workload(question=15, passage=130, top_n=20, top_k=5, answer=12)


@dataclass(frozen=True, slots=True)
class GpuTime:
    """Seconds of one GPU that one question takes."""

    scoring_s: float
    reading_s: float
    writing_s: float

    @property
    def total_s(self) -> float:
        return self.scoring_s + self.reading_s + self.writing_s


def gpu_time(prompts: Prompts, load: Workload, model: Model, gpu: Gpu, *, batch: int = 32) -> GpuTime:
    """Prefill is bound by arithmetic. Decoding is bound by memory: a step reads the weights once for `batch` answers,
    and the keys and values of each.
    """
    tokens = tokens_per_question(prompts, load)
    flops_per_s = gpu.peak_flops * gpu.prefill_efficiency
    pair = prompts.score + load.question + load.passage
    scoring = tokens.scoring_prompt * (1 - load.prefix_share) * prefill_flops_per_token(model, pair / 2)
    reading = tokens.answer_prompt * prefill_flops_per_token(model, tokens.answer_prompt / 2)
    step_bytes = model.weight_bytes / batch + tokens.answer_prompt * model.kv_bytes_per_token
    step_s = step_bytes / (gpu.bytes_per_s * gpu.decode_efficiency)
    return GpuTime(scoring / flops_per_s, reading / flops_per_s, load.answer * step_s)


def replicas(questions_per_s: float, seconds_per_question: float, *, utilisation: float = 0.7) -> int:
    """vLLM servers of one GPU each, none busier than `utilisation`: beyond it waiting grows faster than load."""
    return ceil(questions_per_s * seconds_per_question / utilisation)


def kv_tokens(model: Model, gpu: Gpu, *, memory_share: float = 0.9) -> int:
    """Tokens whose keys and values fit beside the weights, in vLLM's `--gpu-memory-utilization`."""
    return int((gpu.memory_bytes * memory_share - model.weight_bytes) / model.kv_bytes_per_token)


def index_bytes(num_passages: int, dim: int) -> Mapping[str, float]:
    """Memory of the vectors by kind of FAISS index, as FAISS lays them out.

    Inverted lists keep an 8-byte id beside each code, and 4,096 centroids. HNSW32 keeps 2 × 32 links of 4 bytes on
    the ground floor, 32 on each floor above it (a 1/31 more), 8 bytes of offset and 4 of level.
    """
    centroids = 4096 * dim * 4
    codebook = 256 * dim * 4
    links = 2 * 32 * 4 + 32 * 4 / 31 + 8 + 4
    return {
        "Flat": num_passages * 4 * dim,
        "SQ8": num_passages * dim,
        "IVF4096,SQ8": num_passages * (dim + 8) + centroids,
        "HNSW32,SQ8": num_passages * (dim + links),
        "IVF4096,PQ48": num_passages * (48 + 8) + centroids + codebook,
    }


def passage_bytes(num_passages: int, *, chars: float, tokens: float) -> float:
    """Text with its ids, and 4 bytes a token: on disk, and in the page cache as it is read."""
    return num_passages * (chars + 4 * tokens)


def cases(prompts: Prompts, load: Workload, model: Model, gpu: Gpu, questions_per_s: float) -> Table:
    """A question and a load in figures: as it is, with early exit, and where half of the pairs are known."""
    variants = {
        f"N = {load.top_n}, k = {load.top_k}": load,
        "early exit (0.555 of the pairs)": replace(load, scored_share=0.555 * load.scored_share),
        "half of the pairs in the score cache": replace(load, scored_share=0.5 * load.scored_share),
        "0.6 of the tokens in the prefix cache": replace(load, prefix_share=0.6),
    }
    rows = tuple(_case(name, prompts, one, model, gpu, questions_per_s) for name, one in variants.items())
    columns = ("case", "prompt tokens", "GPU ms scoring", "reading", "writing", f"GPUs for {questions_per_s:g}/s")
    return Table(columns, rows)


def _case(
    name: str, prompts: Prompts, load: Workload, model: Model, gpu: Gpu, questions_per_s: float
) -> tuple[str, ...]:
    time = gpu_time(prompts, load, model, gpu)
    return (
        name,
        f"{tokens_per_question(prompts, load).prompt:,.0f}",
        f"{1000 * time.scoring_s:.0f}",
        f"{1000 * time.reading_s:.0f}",
        f"{1000 * time.writing_s:.1f}",
        str(replicas(questions_per_s, time.total_s)),
    )


def index_sizes(num_passages: int, dim: int) -> Table:
    rows = tuple((kind, f"{size / MEBIBYTE:,.0f}") for kind, size in index_bytes(num_passages, dim).items())
    return Table((f"{num_passages:,} vectors of {dim}", "MiB"), rows)


def markdown(table: Table) -> str:
    """As it stands in docs/capacity.md."""
    lines = [table.columns, ("---",) * len(table.columns), *table.rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


app = typer.Typer(add_completion=False)


@app.command()
def main(
    questions_per_s: Annotated[float, typer.Option("--qps", help="Questions a second.")] = 100,
    top_n: Annotated[int, typer.Option(help="Passages scored.")] = EXAMPLE.top_n,
    top_k: Annotated[int, typer.Option(help="Passages kept.")] = EXAMPLE.top_k,
    question: Annotated[float, typer.Option(help="Tokens of a question.")] = EXAMPLE.question,
    passage: Annotated[float, typer.Option(help="Tokens of a passage.")] = EXAMPLE.passage,
    answer: Annotated[float, typer.Option(help="Tokens of an answer.")] = EXAMPLE.answer,
    passages: Annotated[int, typer.Option(help="Passages in the index.")] = 1_000_000,
    dim: Annotated[int, typer.Option(help="Dimensions of a vector.")] = 384,
    params: Annotated[float, typer.Option(help="Parameters of the model.")] = LLAMA_3_8B.params,
    peak_tflops: Annotated[float, typer.Option(help="Of the GPU, dense.")] = H100_80GB.peak_flops / 1e12,
    efficiency: Annotated[float, typer.Option(help="Part of the peak in prefill.")] = H100_80GB.prefill_efficiency,
) -> None:
    """What a load costs."""
    load = Workload(question, passage, top_n, top_k, answer)
    gpu = replace(H100_80GB, peak_flops=peak_tflops * 1e12, prefill_efficiency=efficiency)
    model = replace(LLAMA_3_8B, params=params)
    console = Console()
    show_table(console, "questions", cases(RANKRAG_V1, load, model, gpu, questions_per_s))
    show_table(console, "index", index_sizes(passages, dim))


if __name__ == "__main__":
    app()
