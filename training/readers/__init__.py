"""Readers of the usual public formats; each makes `Rows` of its files."""

from pathlib import Path
from typing import Any

from service.errors import ConfigError
from training import config
from training.readers import beir, conversations, instructions, msmarco, open_qa, project, squad
from training.records import Rows


def missing(source: config.Source, data: Path) -> list[Path]:
    """The files that the source names and that are not there."""
    return [path for path in paths(source, data) if not path.exists()]


def read(source: config.Source, data: Path) -> Rows:
    """Read one source; relative paths are inside `data`.

    Raises:
        CorpusError: `file:line: what` for the first bad row. ConfigError: a reader of MS MARCO lacks a file.
    """
    match source:
        case config.ProjectSource():
            return project.read_questions(data / source.passages, [data / path for path in source.questions])
        case config.CandidatesSource():
            return project.read_candidates(data / source.path)
        case config.SquadSource():
            return squad.read_squad(data / source.path)
        case config.MsMarcoSource():
            return _read_msmarco(source, data)
        case config.BeirSource():
            return beir.read_beir(data / source.directory, source.split)
        case config.OpenQASource():
            return open_qa.read_open_qa(data / source.path, source.passages and data / source.passages)
        case config.ConversationSource():
            return conversations.read_conversations(data / source.path)
        case config.InstructionSource():
            return instructions.read_instructions([data / path for path in source.paths])


def _read_msmarco(source: config.MsMarcoSource, data: Path) -> Rows:
    if source.triples is not None:
        return msmarco.read_text_triples(data / source.triples, source.max_rows)
    if source.queries is None or source.collection is None:
        raise ConfigError("ids need `queries` and `collection`")
    texts = (data / source.queries, data / source.collection, source.max_rows)
    if source.id_triples is not None:
        return msmarco.read_id_triples(data / source.id_triples, *texts)
    if source.qrels is not None:
        return msmarco.read_qrels(data / source.qrels, *texts)
    raise ConfigError("give exactly one of `triples`, `id_triples` and `qrels`")


def paths(source: config.Source, data: Path) -> list[Path]:
    """Every file or folder that the source names; relative ones are inside `data`."""
    values: list[Any] = [getattr(source, name) for name in type(source).model_fields]
    nested = [value if isinstance(value, list) else [value] for value in values]
    return [data / path for group in nested for path in group if isinstance(path, Path)]
