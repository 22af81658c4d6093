"""Instruction data for stage I: `{messages}` or `{instruction, input?, output}` (also `prompt`/`response`)."""

from collections.abc import Sequence
from pathlib import Path

from training.readers.conversations import read_answers, read_turns
from training.readers.rows import Row, json_rows
from training.records import Chat, Rows, Turn


def read_instructions(paths: Sequence[Path]) -> Rows:
    return Rows(chats=tuple(_chat(row) for path in paths for row in json_rows(path)))


def _chat(row: Row) -> Chat:
    if "messages" in row:
        turns = read_turns(row)
        if turns[-1].role == "user":
            turns += [Turn("assistant", answer.strip()) for answer in read_answers(row)[:1]]
        if turns[-1].role != "assistant" or len(turns) < 2:
            raise row.bad("messages", "turns that end with the assistant's")
        return Chat(tuple(turns))
    asked, replied = ("prompt", "response") if "prompt" in row else ("instruction", "output")
    context = row.text("input", "").strip() or row.text("context", "").strip()
    question = f"{row.text(asked).strip()}\n{context}".strip()
    return Chat((Turn("user", question), Turn("assistant", row.text(replied).strip())))
