"""Starts the services and asks them with the clients of each environment: `python -m tests.clients.run current …`."""

import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from tokenizers import Tokenizer

from service.adapters.key_file import entry_text
from service.adapters.prompt_files import read_golden
from service.core.access import KEY_BYTES, SCOPES, key_digest, new_key
from service.local_stack import HOST, free_port, running, service_process, vllm_process
from tests.fake_vllm import FakeVllm

ROOT = Path(__file__).parents[2]
CHECKPOINT, INDEX = ROOT / "models" / "demo", ROOT / "build" / "demo-index"
FOR_EVER_S = 3600


@contextmanager
def real_vllm(scratch: Path) -> Iterator[str]:
    """Its base URL."""
    port, log = free_port(), scratch / "vllm.log"
    process = vllm_process(ROOT / ".venv-vllm" / "bin" / "python", str(CHECKPOINT), port, log, scratch)
    with running(process, "vLLM", log):
        yield f"http://{HOST}:{port}"


@contextmanager
def stuck_vllm(most_prompts: int) -> Iterator[str]:
    """The base URL of a stand-in that never answers calls with more than `most_prompts`: with as many as verify a
    checkpoint, it seems well, and ranks nothing longer. The real one can't be had in this state for as long."""
    vllm = FakeVllm(Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json")), max_model_len=2048)

    async def answer(request: Request) -> Response:
        if request.url.path == "/v1/completions" and len((await request.json())["prompt"]) > most_prompts:
            await request.receive()  # the body was read: only that the caller hangs up can come
            return Response(status_code=503)
        asked = httpx.Request(request.method, str(request.url), content=await request.body())
        async with vllm.http() as http:
            reply = await http.send(asked)
        return Response(reply.content, reply.status_code, media_type=reply.headers["Content-Type"])

    paths = ["/v1/models", "/tokenize", "/v1/completions"]
    app = Starlette(routes=[Route(path, answer, methods=["GET", "POST"]) for path in paths])
    server = uvicorn.Server(
        uvicorn.Config(app, host=HOST, port=(port := free_port()), log_level="warning", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield f"http://{HOST}:{port}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def service(scratch: Path, name: str, **settings: str) -> Iterator[str]:
    port, log = free_port(), scratch / f"{name}.log"
    environment = {"RANKRAG_CHECKPOINT": str(CHECKPOINT), "RANKRAG_INDEX__PATH": str(INDEX), **settings}
    with running(service_process(port, environment, log), name, log):
        yield f"http://{HOST}:{port}"


def key_file(scratch: Path, key: str) -> str:
    """A file by which `key` may do everything."""
    path = scratch / "keys.yaml"
    path.write_text(entry_text("clients", key_digest(key.encode()), SCOPES))
    return str(path)


@contextmanager
def occupied(url: str, key: str) -> Iterator[None]:
    """With a request that nothing comes of, so that whoever comes after it has to wait."""
    body = {
        "query": "q",
        "documents": [f"Number {number}." for number in range(1000)],
        "deadline_ms": FOR_EVER_S * 1000,
    }
    host, _, port = url.removeprefix("http://").partition(":")
    connection = HTTPConnection(host, int(port))
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    connection.request("POST", "/rerank", json.dumps(body), headers)
    try:
        while not _waiting_tokens(url, key):
            time.sleep(0.05)
        yield
    finally:
        connection.close()


def _waiting_tokens(url: str, key: str) -> float:
    lines = httpx.get(f"{url}/metrics", headers={"X-API-Key": key}).text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("rankrag_queued_tokens "))


def ask(name: str, environment: dict[str, str]) -> int:
    python = ROOT / "build" / "clients" / name / "bin" / "python"
    command = [
        str(python), "-m", "pytest", "-q", "-c", "tests/clients/pytest.ini", "--rootdir", str(ROOT),
        "--confcutdir", "tests/clients", "-p", "no:cacheprovider", "tests/clients",
    ]  # fmt: skip
    print(f"== {name}", flush=True)
    named = {"CLIENTS_MODULE": name.replace("-", "_"), "PYTHONPATH": str(ROOT), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    return subprocess.run(command, env={**os.environ, **environment, **named}, cwd=ROOT, check=False).returncode


def main(names: list[str]) -> int:
    key = new_key(secrets.token_bytes(KEY_BYTES))
    with (
        TemporaryDirectory() as directory,
        real_vllm(Path(directory)) as vllm,
        stuck_vllm(most_prompts=2 * len(read_golden())) as stuck,
    ):
        scratch = Path(directory)
        keys = {
            "RANKRAG_AUTH__MODE": "keys",
            "RANKRAG_AUTH__KEY_FILE": key_file(scratch, key),
            "RANKRAG_ADMIN__PORT": "0",
        }
        full = {"RANKRAG_VLLM__MAX_QUEUED_TOKENS": "1", "RANKRAG_LIMITS__MAX_DEADLINE_MS": str(FOR_EVER_S * 1000)}
        with (
            service(scratch, "service", RANKRAG_VLLM__URL=vllm, **keys) as url,
            service(scratch, "busy", RANKRAG_VLLM__URL=stuck, **full, **keys) as busy,
            occupied(busy, key),
        ):
            environment = {"CLIENTS_SERVICE_URL": url, "CLIENTS_BUSY_URL": busy, "CLIENTS_KEY": key}
            return max(ask(name, environment) for name in names)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
