"""Conversations about documents: `{messages, document | passages, answers?}`.

The shape of nvidia/ChatQA-Training-Data and of ChatRAG-Bench: `messages` end with the user's question (then `answers`
holds the reply) or with the assistant's reply.
"""

from pathlib import Path

from service.types import Passage
from training.readers.rows import Row, json_rows
from training.records import Question, Role, Rows, Turn


def read_conversations(path: Path) -> Rows:
    questions = tuple(_question(row, number) for number, row in enumerate(json_rows(path)))
    return Rows(questions=questions, has_documents=True)


def read_answers(row: Row) -> tuple[str, ...]:
    """Texts, lists of texts (NarrativeQA there) or `{text}` objects (SQuAD there), flattened."""
    values = row.fields.get("answers")
    if isinstance(values, list):
        values = [text for value in values for text in (value if isinstance(value, list) else [value])]
        values = [value.get("text") if isinstance(value, dict) else value for value in values]
    return Row(row.where, {"answers": values}).texts("answers")


def read_turns(row: Row) -> list[Turn]:
    """User and assistant turns in order; a system message is left out, the prompt set has its own."""
    turns = [Turn(_role(message), message.text("content").strip()) for message in row.rows("messages")
             if message.text("role") != "system"]  # fmt: skip
    if not turns:
        raise row.bad("messages", "a list with a message")
    return turns


def _role(message: Row) -> Role:
    match message.text("role"):
        case "user" | "human":
            return "user"
        case "assistant" | "gpt":
            return "assistant"
    raise message.bad("role", "user or assistant")


def _question(row: Row, number: int) -> Question:
    turns, answers = read_turns(row), read_answers(row)
    if turns[-1].role == "assistant":
        answers = (*answers, turns[-1].text)
        turns = turns[:-1]
    if not turns or turns[-1].role != "user":
        raise row.bad("messages", "turns that end with a question of the user and perhaps a reply")
    if not answers:
        raise row.bad("answers", "the reply, where `messages` ends with the question")
    id_ = row.text("id", f"conversation-{number}")
    return Question(id_, turns[-1].text, answers, relevant=_documents(row, id_), history=tuple(turns[:-1]))


def _documents(row: Row, id_: str) -> tuple[Passage, ...]:
    if "document" in row:
        return (Passage(id_, row.text("document")),)
    passages = tuple(part.passage(f"{id_}/{index}") for index, part in enumerate(row.rows("passages")))
    if not passages:
        raise row.bad("document", "the text that the conversation is about, unless `passages` is there")
    return passages
