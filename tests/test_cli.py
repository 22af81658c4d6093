"""The `rankrag` command."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from typer.testing import CliRunner

from service.adapters.key_file import parse_keys
from service.adapters.tokenizer import PromptTokenizer, open_tokenizer
from service.cli import CONFIG_EXIT, app
from service.settings import describe_settings
from service.types import Passage
from tests.fakes import rankrag_prompts

DEMO = Path(__file__).parents[1] / "models" / "demo"

ROW = '{"id": "a", "text": "It rises to 4,806 metres."}'


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text(ROW + "\n")
    return path


def test_settings_prints_the_table(runner: CliRunner) -> None:
    result = runner.invoke(app, ["settings"])
    assert (result.exit_code, result.stdout) == (0, describe_settings())


@pytest.mark.parametrize(
    "arguments", [["--help"], ["index", "--help"], ["index", "build", "--help"], ["serve", "--help"]]
)
def test_help_is_given(runner: CliRunner, arguments: list[str]) -> None:
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0
    assert "Usage" in result.stdout


def test_index_is_built_and_reported(runner: CliRunner, corpus: Path, tmp_path: Path) -> None:
    result = runner.invoke(app, ["index", "build", str(corpus), "--out", str(tmp_path / "index")])
    assert result.exit_code == 0, result.output
    assert "1 passages of 1 documents, 384-d" in result.stdout
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text())
    assert manifest["num_passages"] == 1


def built_tokens(tmp_path: Path) -> object:
    return json.loads((tmp_path / "index" / "manifest.json").read_text())["tokens"]


@pytest.mark.parametrize("options", [[], ["--checkpoint", str(DEMO)]], ids=["configured", "named"])
def test_passages_are_tokenised_for_the_checkpoint(
    runner: CliRunner, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.setenv("RANKRAG_CHECKPOINT", "no such checkpoint!" if options else str(DEMO))
    result = runner.invoke(app, ["index", "build", str(corpus), "--out", str(tmp_path / "index"), *options])
    assert (result.exit_code, "warning" in result.stderr) == (0, False)
    tokenizer = PromptTokenizer(open_tokenizer(DEMO), rankrag_prompts())
    (ids,) = tokenizer.context_ids([Passage("a", "It rises to 4,806 metres.")])
    assert ids is not None
    assert built_tokens(tmp_path) == {"fingerprint": tokenizer.fingerprint, "num_tokens": len(ids)}
    assert f"{len(ids)} tokens" in result.stdout


def test_tokens_can_be_left_out(runner: CliRunner, corpus: Path, tmp_path: Path) -> None:
    assert build(runner, corpus, tmp_path, "--no-tokens")[0] == 0
    assert built_tokens(tmp_path) is None


def test_configured_checkpoint_that_is_not_there_is_a_warning(
    runner: CliRunner, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANKRAG_CHECKPOINT", "no such checkpoint!")
    code, message = build(runner, corpus, tmp_path)
    assert code == 0
    assert "warning: no token ids are kept with the index: checkpoint 'no such checkpoint!'" in message
    assert built_tokens(tmp_path) is None


def test_named_checkpoint_that_is_not_there_ends_the_build(runner: CliRunner, corpus: Path, tmp_path: Path) -> None:
    code, message = build(runner, corpus, tmp_path, "--checkpoint", "no such checkpoint!")
    assert code == CONFIG_EXIT
    assert "error: checkpoint 'no such checkpoint!' is not a directory" in message
    assert not (tmp_path / "index").exists()


def test_checkpoint_that_needs_whole_prompts_is_a_warning(runner: CliRunner, corpus: Path, tmp_path: Path) -> None:
    words = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.save(str(tmp_path / "tokenizer.json"))
    code, message = build(runner, corpus, tmp_path, "--checkpoint", str(tmp_path))
    assert code == 0
    assert "needs whole prompts" in message
    assert built_tokens(tmp_path) is None


def build(runner: CliRunner, corpus: Path, tmp_path: Path, *options: str) -> tuple[int, str]:
    result = runner.invoke(app, ["index", "build", str(corpus), "--out", str(tmp_path / "index"), *options])
    return result.exit_code, result.stderr


def test_bad_row_ends_the_build_with_file_and_line(runner: CliRunner, corpus: Path, tmp_path: Path) -> None:
    corpus.write_text(ROW + "\n" + ROW + "\n")
    code, message = build(runner, corpus, tmp_path)
    assert code == CONFIG_EXIT
    assert f"{corpus}:2: id 'a' was already used in line 1" in message
    assert not (tmp_path / "index").exists()


def test_skipped_rows_are_listed_and_counted(runner: CliRunner, corpus: Path, tmp_path: Path) -> None:
    corpus.write_text(ROW + '\n{\n{"id": "[bold]", "text": "t", "[red]": 1}\n')
    code, message = build(runner, corpus, tmp_path, "--skip-bad")
    assert code == 0
    assert f"{corpus}:2: not JSON" in message
    assert "unknown field '[red]'" in message
    assert "2 bad rows skipped" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--encoder", "package:no_such_package/model"], "no_such_package"),
        (["--encoder", "no such model!"], "is not a directory"),
        (["--pooling", "median"], "pooling"),
        (["--metric", "cosine"], "metric"),
    ],
)
def test_wrong_option_ends_the_build_with_its_name(
    runner: CliRunner, corpus: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    code, shown = build(runner, corpus, tmp_path, *options)
    assert code == CONFIG_EXIT
    assert "error:" in shown
    assert message in shown


def test_missing_corpus_ends_the_build_with_its_name(runner: CliRunner, tmp_path: Path) -> None:
    code, message = build(runner, tmp_path / "[none].jsonl", tmp_path)
    assert code == CONFIG_EXIT
    assert "[none].jsonl: No such file" in message


def test_directory_of_something_else_is_left_alone(runner: CliRunner, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "thesis.txt").write_text("ten years of work")
    code, message = build(runner, corpus, tmp_path)
    assert code == CONFIG_EXIT
    assert "is not an index" in message


def test_index_that_cannot_be_written_ends_the_build_with_a_message(
    runner: CliRunner, corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    result = runner.invoke(app, ["index", "build", str(corpus), "--out", str(tmp_path / "file" / "index")])
    assert result.exit_code == CONFIG_EXIT
    assert "Not a directory" in result.stderr or "File exists" in result.stderr


@pytest.mark.parametrize(
    ("variable", "value"),
    [("RANKRAG_TOP_N", "0"), ("RANKRAG_VLLM__URL", "gpu:9000"), ("RANKRAG_VLLM__SURPRISE", "1")],
)
def test_wrong_setting_ends_serve_with_its_variable(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    result = runner.invoke(app, ["serve"])
    assert result.exit_code == CONFIG_EXIT
    assert f"{variable}: " in result.stderr


def test_section_that_is_set_at_once_must_be_json(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKRAG_VLLM", "{")
    result = runner.invoke(app, ["serve"])
    assert result.exit_code == CONFIG_EXIT
    assert '"vllm"' in result.stderr


def test_service_that_is_not_there_ends_ask_with_its_address(runner: CliRunner) -> None:
    result = runner.invoke(app, ["ask", "How high?", "--url", "http://127.0.0.1:1"])
    assert result.exit_code == 1
    assert "http://127.0.0.1:1 can't be reached" in result.stderr


def test_a_key_is_shown_once_and_its_entry_goes_to_the_file(runner: CliRunner) -> None:
    arguments = ["keys", "new", "--name", "shop", "--scope", "answer", "--scope", "rerank", "--rate-limit", "9/minute"]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0
    key = next(word for word in result.stderr.split() if word.startswith("rrk_"))
    assert key not in result.stdout
    found = parse_keys(result.stdout.encode(), "keys").find(key.encode())
    assert found is not None
    assert (found.name, found.scopes, found.rate_limit) == ("shop", frozenset({"answer", "rerank"}), "9/minute")
    again = runner.invoke(app, arguments)
    assert again.stdout != result.stdout


@pytest.mark.parametrize(("option", "value"), [("--scope", "root"), ("--name", "a b"), ("--rate-limit", "often")])
def test_a_key_that_the_file_would_not_take_is_not_made(runner: CliRunner, option: str, value: str) -> None:
    chosen = {"--name": "shop", "--scope": "answer", option: value}
    result = runner.invoke(app, ["keys", "new", *(part for pair in chosen.items() for part in pair)])
    assert (result.exit_code, result.stdout) == (CONFIG_EXIT, "")
    assert option.strip("-").replace("-", "_").rstrip("s") in result.stderr
