"""What the service proves before it serves, and what it says when it must not."""

import asyncio
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml
from mirakuru import TCPExecutor
from tokenizers import Tokenizer

from service.local_stack import HOST, LOCAL_ENVIRONMENT, free_port, running, service_process
from tests.integration.conftest import CHECKPOINT, READY_WITHIN_S, ROOT, Settings, Vllm, readiness, wait_until

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
    wrong = {
        "RANKRAG_TOP_N": "0", "RANKRAG_LIMITS__MAX_DOCUMENTS": "many", "RANKRAG_INDEX__PATH": "/none",
        "RANKRAG_TLS__CERT_FILE": "/none/cert.pem", "RANKRAG_AUTH__KEY_FILE": "/none/keys.yaml",
    }  # fmt: skip
    ended = run_service({**settings, **wrong})
    assert ended.returncode == CONFIG_EXIT
    assert [ended.stderr.count(f"{name}: ") for name in wrong] == [1] * len(wrong)


@pytest.mark.threat("T25")
def test_a_bare_start_is_refused_and_says_what_to_do(settings: Settings) -> None:
    bare = {name: value for name, value in settings.items() if name not in LOCAL_ENVIRONMENT}
    ended = run_service(bare)
    assert ended.returncode == CONFIG_EXIT
    assert "RANKRAG_AUTH__KEY_FILE" in ended.stderr
    assert "rankrag keys new" in ended.stderr


def test_a_port_in_use_is_named(settings: Settings, vllm: Vllm) -> None:
    ended = run_service({**settings, "RANKRAG_ADMIN__PORT": str(vllm.port)})
    assert ended.returncode == CONFIG_EXIT
    assert f"{HOST}:{vllm.port} can't be listened on" in ended.stdout + ended.stderr


@pytest.mark.timeout(420)
def test_what_the_service_needs_may_come_later(settings: Settings, vllm: Vllm, tmp_path: Path) -> None:
    """vLLM and Redis come up after the service, which is alive meanwhile, says what it lacks, and then works."""
    redis_port, vllm_port, port = free_port(), free_port(), free_port()
    needs = {"RANKRAG_VLLM__URL": f"http://{HOST}:{vllm_port}", "RANKRAG_REDIS_URL": f"redis://{HOST}:{redis_port}/0"}
    early = {**needs, "RANKRAG_CACHE__RETRY_AFTER_S": "0.2"}
    process = service_process(port, {**settings, **early}, tmp_path / "service.log", path="/livez")
    url = f"http://{HOST}:{port}"
    with running(process, "the service", tmp_path / "service.log"), httpx.Client(base_url=url, timeout=30) as http:
        dependencies = http.get("/readyz").json()["dependencies"]
        assert not dependencies["engine"]["ok"]
        assert http.post("/rerank", json={"query": "q", "documents": ["d"]}).status_code == 503
        with forwarding(vllm_port, vllm.port), redis_server(redis_port, tmp_path):
            wait_until(lambda: readiness(http) == 200, within_s=READY_WITHIN_S)
            assert http.post("/rerank", json={"query": "q", "documents": ["d"]}).status_code == 200
            wait_until(lambda: http.get("/readyz").json()["dependencies"]["cache"]["ok"], within_s=READY_WITHIN_S)


@contextmanager
def redis_server(port: int, directory: Path) -> Iterator[TCPExecutor]:
    command = f"redis-server --port {port} --bind {HOST} --save '' --appendonly no --dir {directory}"
    with TCPExecutor(command, HOST, port, timeout=20, stdout=subprocess.DEVNULL) as process:
        yield process


@contextmanager
def forwarding(port: int, to: int) -> Iterator[None]:
    """What comes to `port` goes to `to`, as if a server had come up there."""
    ready, ended = threading.Event(), threading.Event()

    async def forward() -> None:
        async def joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            back, forth = await asyncio.open_connection(HOST, to)
            try:
                await asyncio.gather(_copied(reader, forth), _copied(back, writer), return_exceptions=True)
            finally:
                forth.close()
                writer.close()

        async with await asyncio.start_server(joined, HOST, port):
            ready.set()
            while not ended.is_set():  # noqa: ASYNC110 (another thread sets it)
                await asyncio.sleep(0.05)

    thread = threading.Thread(target=asyncio.run, args=(forward(),))
    thread.start()
    ready.wait(10)
    yield
    ended.set()
    thread.join(10)


async def _copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


def test_the_served_tokenizer_has_both_labels() -> None:
    tokenizer = Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))
    assert len(tokenizer.encode(" True", add_special_tokens=False).ids) == 1
    assert len(tokenizer.encode(" False", add_special_tokens=False).ids) == 1
