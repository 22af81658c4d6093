"""The `rankrag` command."""

import json
import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import httpx
import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from service.adapters.key_file import entry_text
from service.core.access import KEY_BYTES, key_digest, new_key
from service.errors import CheckpointError, RankRAGError
from service.evaluation.commands import app as eval_app
from service.redaction import redact
from service.settings import (
    Mistake,
    Settings,
    client_headers,
    describe_settings,
    read_settings,
    unknown_variables,
    variable_of,
)

if TYPE_CHECKING:
    from service.adapters.tokenizer import PromptTokenizer

app = typer.Typer(no_args_is_help=True, add_completion=False, help="RankRAG: retrieve, score, keep, answer.")
index_app = typer.Typer(no_args_is_help=True, help="Build and look at indexes.")
app.add_typer(index_app, name="index")
app.add_typer(eval_app, name="eval")
keys_app = typer.Typer(no_args_is_help=True, help="Make API keys.")
app.add_typer(keys_app, name="keys")

out = Console()
err = Console(stderr=True)

CONFIG_EXIT, CHECKPOINT_EXIT = 2, 3


def fail(message: str, code: int = CONFIG_EXIT) -> NoReturn:
    err.print(f"[bold red]error:[/] {escape(redact(message))}", highlight=False, soft_wrap=True)
    raise typer.Exit(code)


def load_settings() -> Settings:
    """The settings, or every mistake in them at once."""
    settings, mistakes = _read_settings()
    _fail_for(mistakes)
    return settings


def _read_settings() -> tuple[Settings, list[Mistake]]:
    for name in unknown_variables(os.environ):
        err.print(f"[yellow]warning:[/] no such setting: {escape(name)}", highlight=False, soft_wrap=True)
    try:
        return read_settings()
    except SettingsError as exc:  # a whole section set at once, and not as JSON
        fail(f"wrong settings\n  {exc}")


def _fail_for(mistakes: Sequence[Mistake]) -> None:
    if mistakes:
        lines = [f"{variable_of(mistake.field)}: {mistake.message}" for mistake in mistakes]
        fail("wrong settings\n  " + "\n  ".join(lines))


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    index: Annotated[Path | None, typer.Option(help="Index directory.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes on the port.")] = None,
) -> None:
    """Serve the API. Every other setting is an environment variable: see `rankrag settings`."""
    from service.serving import run_server  # heavy imports only where they are needed
    from service.start_checks import mistakes_in
    from service.workers import run_workers

    settings, mistakes = _read_settings()
    index_settings = settings.index.model_copy(update={"path": index or settings.index.path})
    chosen = {
        "host": host or settings.host,
        "port": settings.port if port is None else port,
        "index": index_settings,
        "workers": workers or settings.workers,
    }
    settings = settings.model_copy(update=chosen)
    wrong = {mistake.field for mistake in mistakes}
    _fail_for([*mistakes, *(mistake for mistake in mistakes_in(settings) if mistake.field not in wrong)])
    raise typer.Exit(run_server(settings) if settings.workers == 1 else run_workers(settings))


@app.command()
def settings() -> None:
    """Print every setting with its default, as the table of the README."""
    sys.stdout.write(describe_settings())


@app.command()
def openapi() -> None:
    """Print the API's OpenAPI document, e.g. to generate a client from."""
    from service.app import create_app

    sys.stdout.write(json.dumps(create_app(Settings()).openapi(), indent=2, ensure_ascii=False) + "\n")


@app.command()
def ask(
    question: str,
    url: Annotated[str, typer.Option(help="A running service.")] = "http://127.0.0.1:8080",
    top_n: Annotated[int | None, typer.Option(help="Passages to retrieve.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Passages to keep.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the response as it came.")] = False,
) -> None:
    """Ask a running service one question; a key that it wants is taken from RANKRAG_API_KEY."""
    from service.display import show_answer

    body = {"question": question, "top_n": top_n, "top_k": top_k}
    try:
        response = httpx.post(f"{url}/answer", json=body, headers=client_headers(), timeout=60)
    except httpx.HTTPError as exc:
        fail(f"{url} can't be reached: {exc}", 1)
    if response.is_error:
        fail(f"{response.status_code}: {response.json().get('message', response.text)}", 1)
    if as_json:
        sys.stdout.write(json.dumps(response.json(), indent=2, ensure_ascii=False) + "\n")
    else:
        show_answer(out, question, response.json())


@app.command()
def demo(
    once: Annotated[bool, typer.Option(help="Exit after the answers.")] = False,
    questions: Annotated[bool, typer.Option(help="Ask sample questions.")] = True,
    port: Annotated[int | None, typer.Option(help="Port of the service; 8080, or a free one.", envvar="PORT")] = None,
    index: Annotated[Path, typer.Option(help="Index directory.")] = Path("build/demo-index"),
    vllm_python: Annotated[Path, typer.Option(help="Python of vLLM's environment.")] = Path(".venv-vllm/bin/python"),
) -> None:
    """Start vLLM and the service on this machine, ask sample questions, stay up until Ctrl-C."""
    from service.demo import run_demo

    try:
        code = run_demo(out, load_settings(), index=index, vllm_python=vllm_python, port=port, once=once, ask=questions)
    except RankRAGError as exc:
        fail(exc.message)
    raise typer.Exit(code)


@keys_app.command("new")
def keys_new(
    name: Annotated[str, typer.Option(help="Whose key it is: in logs and in the key file.")],
    scope: Annotated[list[str], typer.Option(help="answer, rerank or admin; may be given several times.")],
    rate_limit: Annotated[str | None, typer.Option(help="Its own rate, e.g. 100/minute.")] = None,
) -> None:
    """Make a key. It is shown once, on stderr; its entry for the key file goes to stdout (`>> keys.yaml`)."""
    key = new_key(secrets.token_bytes(KEY_BYTES))
    try:
        entry = entry_text(name, key_digest(key.encode()), scope, rate_limit)
    except RankRAGError as exc:
        fail(exc.message)
    sys.stdout.write(entry)
    err.print(f"the key of {name}, shown only now: [bold]{key}[/]", highlight=False, soft_wrap=True)


@index_app.command("build")
def index_build(
    corpus: Annotated[Path, typer.Argument(help="JSONL rows {id, title?, text, metadata?}.")],
    out_directory: Annotated[Path, typer.Option("--out", help="Directory of the index; replaced if it exists.")],
    encoder: Annotated[str | None, typer.Option(help="Hub id, directory, or package:NAME/FOLDER.")] = None,
    passage_encoder: Annotated[str | None, typer.Option(help="A separate passage encoder (Dragon has one).")] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of a hub id.")] = None,
    pooling: Annotated[
        str | None, typer.Option(help="cls, mean, max or lasttoken; as the model says by default.")
    ] = None,
    normalize: Annotated[bool, typer.Option(help="L2-normalise vectors.")] = True,
    query_prompt: Annotated[str, typer.Option(help='Put before questions, e.g. "query: " for E5.')] = "",
    passage_prompt: Annotated[str, typer.Option(help='Put before passages, e.g. "passage: ".')] = "",
    metric: Annotated[str, typer.Option(help="ip (inner product) or l2.")] = "ip",
    max_words: Annotated[int, typer.Option(min=1, help="Words in a passage.")] = 100,
    skip_bad: Annotated[bool, typer.Option(help="Leave out bad rows, count and list them.")] = False,
    checkpoint: Annotated[
        str | None, typer.Option(help="Tokenise passages for this checkpoint; RANKRAG_CHECKPOINT by default.")
    ] = None,
    tokens: Annotated[
        bool, typer.Option(help="Keep the passages' token ids, so that no question waits for them.")
    ] = True,
) -> None:
    """Chunk, encode, tokenise and index a corpus."""
    from service.adapters.encoder import EncoderConfig
    from service.adapters.index_directory import build_index, read_corpus

    chosen = {"model": encoder, "passage_model": passage_encoder, "revision": revision, "pooling": pooling}
    fields = {key: value for key, value in chosen.items() if value is not None}
    try:
        config = EncoderConfig(
            **fields, normalize=normalize, query_prompt=query_prompt, passage_prompt=passage_prompt, metric=metric
        )
        tokenizer = _index_tokenizer(checkpoint) if tokens else None
        read = read_corpus(corpus, max_words=max_words, skip_bad=skip_bad)
        _report_skipped(read.skipped)
        manifest = build_index(
            read, out_directory, config, max_words=max_words, tokenizer=tokenizer, progress=_progress
        )
    except ValidationError as exc:
        fail("; ".join(f"{e['loc'][0]}: {e['msg']}" for e in exc.errors()))
    except RankRAGError as exc:
        fail(exc.message)
    except OSError as exc:
        fail(str(exc))
    out.print(
        f"[green]{escape(str(out_directory))}[/]: {manifest.num_passages} passages of "
        f"{manifest.num_documents} documents, {manifest.dim}-d, version {manifest.version}, "
        + (f"{manifest.tokens.num_tokens} tokens" if manifest.tokens else "no tokens"),
        highlight=False,
        soft_wrap=True,
    )


def _index_tokenizer(checkpoint: str | None) -> "PromptTokenizer | None":
    """The tokenizer of the checkpoint named or, if it is there, of the configured one."""
    from service.adapters.prompt_files import read_prompts
    from service.adapters.tokenizer import PromptTokenizer, checkpoint_directory, open_tokenizer

    settings = load_settings()
    revision = settings.checkpoint_revision if checkpoint is None else None
    try:
        directory = checkpoint_directory(checkpoint or settings.checkpoint, revision)
        tokenizer = PromptTokenizer(open_tokenizer(directory), read_prompts(settings.prompts).prompts)
    except CheckpointError as exc:
        if checkpoint is not None:
            raise
        _warn_no_tokens(exc.message)
        return None
    if not tokenizer.is_segmentable:
        _warn_no_tokens("this checkpoint's tokenizer needs whole prompts")
    return tokenizer


def _warn_no_tokens(reason: str) -> None:
    message = f"no token ids are kept with the index: {reason}"
    err.print(f"[yellow]warning:[/] {escape(message)}", highlight=False, soft_wrap=True)


def _progress(batches: Any) -> Iterator[Sequence[Any]]:
    yield from track(list(batches), "encoding", console=err)


def _report_skipped(skipped: Sequence[str]) -> None:
    for line in skipped:
        err.print(f"[yellow]skipped[/] {escape(line)}", highlight=False, soft_wrap=True)
    if skipped:
        err.print(f"[yellow]{len(skipped)} bad rows skipped[/]")


def main() -> None:
    app()
