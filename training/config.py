"""One YAML file says everything about a training run. Unknown keys are refused; errors name the key."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from service.adapters.encoder import EncoderConfig
from service.errors import ConfigError

StageNumber = Annotated[Literal[1, 2], BeforeValidator(int)]  # JSON's keys are texts
Share = Annotated[float, Field(ge=0, le=1)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ProjectSource(Strict):
    """This project's passages and questions (with or without an answer)."""

    format: Literal["project"]
    passages: Path
    questions: list[Path] = Field(min_length=1)
    mine: bool = Field(True, description="Fill up with hard negatives from the corpus.")


class CandidatesSource(Strict):
    """This project's questions with labelled candidates."""

    format: Literal["candidates"]
    path: Path


class SquadSource(Strict):
    format: Literal["squad"]
    path: Path
    mine: bool = True


class MsMarcoSource(Strict):
    """Text triples alone, or id triples or qrels with `queries` and `collection`."""

    format: Literal["msmarco"]
    triples: Path | None = None
    id_triples: Path | None = None
    qrels: Path | None = None
    queries: Path | None = None
    collection: Path | None = None
    max_rows: int | None = Field(None, gt=0, description="Triples, or questions of the qrels, to read.")
    mine: bool = Field(False, description="With qrels only: the triples have their negatives.")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if sum(path is not None for path in (self.triples, self.id_triples, self.qrels)) != 1:
            raise ValueError("give exactly one of `triples`, `id_triples` and `qrels`")
        if self.triples is None and (self.queries is None or self.collection is None):
            raise ValueError("ids need `queries` and `collection`")
        return self


class BeirSource(Strict):
    format: Literal["beir"]
    directory: Path
    split: str = "train"
    mine: bool = True


class OpenQASource(Strict):
    """Natural Questions open, KILT or DPR rows, with an optional corpus to mine from."""

    format: Literal["open_qa"]
    path: Path
    passages: Path | None = None
    mine: bool = False


class ConversationSource(Strict):
    format: Literal["conversations"]
    path: Path


class InstructionSource(Strict):
    format: Literal["instructions"]
    paths: list[Path] = Field(min_length=1)


Source = Annotated[
    ProjectSource | CandidatesSource | SquadSource | MsMarcoSource | BeirSource | OpenQASource | ConversationSource
    | InstructionSource,
    Field(discriminator="format"),
]  # fmt: skip


class Size(Strict):
    """For estimates where the model itself is not at hand."""

    parameters: float = Field(gt=0)
    layers: int = Field(gt=0)
    hidden: int = Field(gt=0)


class Model(Strict):
    """`type` is transformers' name of the architecture; a dry run makes a tiny random one of it."""

    path: str
    revision: str | None = None
    type: str = "llama"
    size: Size | None = None
    weights: Literal["float32", "bfloat16"] = Field(
        "float32", description="bfloat16 only where the weights are frozen: small steps would be rounded away."
    )


class Lora(Strict):
    rank: int = Field(64, gt=0)
    alpha: int = Field(128, gt=0)
    dropout: Share = 0.0
    target_modules: str | list[str] = "all-linear"


class Stage(Strict):
    """One of the paper's two stages; `start` is the model it begins with (the configuration's model if null)."""

    start: str | None = None
    steps: int = Field(gt=0)
    batch: int = Field(gt=0, description="Examples per optimiser step, over all devices.")
    learning_rate: float = Field(gt=0)


class Optimizer(Strict):
    name: str = "adamw_torch"
    beta1: Share = 0.9
    beta2: Share = 0.98  # the paper's, appendix B
    weight_decay: float = Field(0.0, ge=0)
    warmup_steps: int = Field(50, ge=0)
    schedule: str = "cosine"
    max_grad_norm: float = Field(1.0, gt=0)


class Mining(Strict):
    """Hard negatives: `depth` of each retriever's best are looked at, at most `keep` per question are kept."""

    encoder: EncoderConfig = EncoderConfig()
    retrievers: list[Literal["dense", "bm25"]] = Field(["bm25", "dense"], min_length=1)
    depth: int = Field(30, gt=0)
    keep: int = Field(10, gt=0)
    cache: Path = Path("runs/mined")


class Dev(Strict):
    """What is measured at each evaluation: ranking among candidates, and answers from five passages."""

    source: Source
    questions: int = Field(100, gt=0)
    candidates: int = Field(10, gt=1)
    every: int = Field(100, gt=0, description="Optimiser steps between evaluations.")


class Hardware(Strict):
    """For estimates only."""

    name: str = "H100 80GB"
    count: int = Field(1, gt=0)
    tflops: float = Field(989.0, gt=0, description="Peak of one device, dense bfloat16.")
    utilisation: Share = 0.4
    price_per_hour: tuple[float, float] = (2.0, 4.0)


class Recipe(Strict):
    model: Model
    prompts: str = "rankrag-v1"
    stage: StageNumber = 2
    stages: dict[StageNumber, Stage]
    lora: Lora | None = Field(None, description="All weights are trained where this is null.")
    optimizer: Optimizer = Optimizer()
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    max_length: int = Field(4096, gt=64)
    per_device_batch: int = Field(1, gt=0)
    gradient_checkpointing: bool = True
    seed: int = 7
    data: Path = Field(Path(), description="Relative paths of sources are inside this folder.")
    sources: dict[str, Source] = Field(min_length=1)
    blend: Path | None = Field(None, description="Weights in place of training/blend.yaml.")
    positive_share: Share = Field(0.5, description="Ranking examples whose passage is relevant.")
    abstention_share: Share = Field(0.1, description="Questions that lose their relevant passages: abstain.")
    mining: Mining = Mining()
    dev: Dev | None = None
    save_every: int = Field(100, gt=0)
    output: Path
    hardware: Hardware = Hardware()

    @model_validator(mode="after")
    def _stage_is_there(self) -> Self:
        if self.stage not in self.stages:
            raise ValueError(f"stages has no stage {self.stage}")
        if self.lora is None and self.model.weights == "bfloat16":
            raise ValueError("model.weights: bfloat16 weights can't be trained in small steps; use float32, or lora")
        return self

    @property
    def current(self) -> Stage:
        return self.stages[self.stage]

    @property
    def start(self) -> str:
        return self.current.start or self.model.path

    @property
    def run(self) -> Path:
        """Where the current stage keeps its checkpoints, logs and final weights."""
        return self.output / f"stage-{self.stage}"


def read_recipe(path: Path, stage: int | None = None) -> Recipe:
    """Raises ConfigError: `file: key: what is wrong`, one line per key."""
    document = read_yaml(path)
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: must be a mapping of keys")
    try:
        return Recipe.model_validate(document | ({} if stage is None else {"stage": stage}))
    except ValidationError as exc:
        lines = [f"{path}: {'.'.join(map(str, error['loc'])) or 'recipe'}: {error['msg']}" for error in exc.errors()]
        raise ConfigError("\n".join(lines)) from exc


def read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}") from exc
    except yaml.YAMLError as exc:
        raise ConfigError(f"{path} is not YAML: {exc}") from exc
