"""Prompt sets and golden pairs from files."""

from pathlib import Path

import pytest

from service.adapters.prompt_files import read_golden, read_prompts
from service.errors import ConfigError

OWN = Path("service/prompts/rankrag-v1.yaml")


@pytest.fixture
def own_text() -> str:
    return (Path(__file__).parents[2] / OWN).read_text(encoding="utf-8")


def test_file_of_the_users_is_read_by_its_path(tmp_path: Path, own_text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(own_text.replace("name: rankrag", "name: mine"), encoding="utf-8")
    assert read_prompts(str(path)).prompts.id == "mine-v1"


def test_edit_without_a_new_version_still_changes_the_digest(tmp_path: Path, own_text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(own_text.replace("access", "assess"), encoding="utf-8")
    mine, theirs = read_prompts(str(path)), read_prompts("rankrag-v1")
    assert mine.prompts.id == theirs.prompts.id
    assert mine.digest != theirs.digest


@pytest.mark.parametrize("name", ["no-such-set", "no/such/file.yaml", ""])
def test_prompts_that_are_not_there_are_a_config_error(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_prompts(name)
    assert caught.value.field == "prompts"


@pytest.mark.parametrize("content", [b"name: [", b"\xff\xfe\x00", b"- 1"])
def test_prompts_that_cannot_be_read_are_a_config_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        read_prompts(str(path))


def test_golden_pairs_are_questions_with_two_different_passages() -> None:
    golden = read_golden()
    assert len(golden) >= 4
    assert all(pair.question and pair.relevant != pair.irrelevant for pair in golden)
