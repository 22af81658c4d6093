"""What the service proves before it serves, and what it says when it must not."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from tokenizers import Tokenizer

from service.local_stack import HOST, free_port
from tests.integration.conftest import CHECKPOINT, ROOT, Settings

CHECKPOINT_EXIT, CONFIG_EXIT = 3, 2


def run_service(settings: Settings) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service", "serve", "--host", HOST, "--port", str(free_port())]
    return subprocess.run(command, env={**settings}, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)


def test_another_tokenizer_than_vllms_is_refused(settings: Settings, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(CHECKPOINT, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\n| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s"
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    ended = run_service({**settings, "RANKRAG_CHECKPOINT": str(other)})
    assert ended.returncode == CHECKPOINT_EXIT
    assert "another tokenizer" in ended.stdout + ended.stderr


def with_other_labels(settings: Settings, path: Path, **labels: str) -> Settings:
    prompts = yaml.safe_load((ROOT / "service" / "prompts" / "rankrag-v1.yaml").read_text())
    prompts["score"] |= labels
    path.write_text(yaml.safe_dump(prompts))
    return {**settings, "RANKRAG_PROMPTS": str(path)}


def test_a_checkpoint_that_ranks_the_golden_pairs_wrong_is_refused(settings: Settings, tmp_path: Path) -> None:
    swapped = with_other_labels(settings, tmp_path / "swapped.yaml", label_true=" False", label_false=" True")
    ended = run_service(swapped)
    assert ended.returncode == CHECKPOINT_EXIT
    assert "golden pairs" in ended.stdout + ended.stderr


def test_a_label_of_several_tokens_is_refused(settings: Settings, tmp_path: Path) -> None:
    ended = run_service(with_other_labels(settings, tmp_path / "long.yaml", label_true=" unquestionably relevant"))
    assert ended.returncode == CHECKPOINT_EXIT
    assert "not a single token" in ended.stdout + ended.stderr


def test_a_missing_index_is_refused(settings: Settings, tmp_path: Path) -> None:
    ended = run_service({**settings, "RANKRAG_INDEX__PATH": str(tmp_path)})
    assert ended.returncode == CONFIG_EXIT
    assert "holds no index" in ended.stdout + ended.stderr


def test_every_wrong_setting_is_named_at_once(settings: Settings) -> None:
    ended = run_service({**settings, "RANKRAG_TOP_N": "0", "RANKRAG_LIMITS__MAX_DOCUMENTS": "many"})
    assert ended.returncode == CONFIG_EXIT
    assert "RANKRAG_TOP_N" in ended.stderr
    assert "RANKRAG_LIMITS__MAX_DOCUMENTS" in ended.stderr


def test_the_served_tokenizer_has_both_labels() -> None:
    tokenizer = Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))
    assert len(tokenizer.encode(" True", add_special_tokens=False).ids) == 1
    assert len(tokenizer.encode(" False", add_special_tokens=False).ids) == 1
