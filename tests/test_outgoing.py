"""What callers send opens no connection: who may connect, and from what addresses."""

import ast
from pathlib import Path

import pytest

from service.app import create_app
from service.settings import Settings
from tests.fakes import FakeServices

SERVICE = Path(__file__).parents[1] / "service"
CLIENTS = {"httpx", "requests", "urllib.request", "urllib3", "aiohttp", "http.client", "socket", "redis", "ftplib"}
# To the servers that settings name, on our own ports, and to the service itself for commands that ask it.
MAY_CONNECT = {
    "adapters/vllm_client.py", "adapters/replicas.py", "adapters/redis_cache.py", "adapters/rate_limiter.py",
    "server.py", "serving.py", "workers.py", "local_stack.py", "demo.py", "cli.py", "evaluation/commands.py",
    "evaluation/http_target.py",
}  # fmt: skip


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
    return names


@pytest.mark.threat("T15")
def test_nothing_that_reads_a_request_can_connect() -> None:
    connecting = {
        str(path.relative_to(SERVICE))
        for path in SERVICE.rglob("*.py")
        if any(name in CLIENTS or name.partition(".")[0] in CLIENTS for name in imported(path))
    }
    assert connecting <= MAY_CONNECT
    assert "adapters/vllm_client.py" in connecting


@pytest.mark.threat("T15")
def test_no_field_of_a_request_is_an_address() -> None:
    document = create_app(Settings(), FakeServices().open).openapi()
    requests = {"AnswerRequest", "RerankRequest", "GivenPassage", "DocumentBody"}
    for name in requests:
        for field, schema in document["components"]["schemas"][name]["properties"].items():
            assert schema.get("format") not in ("uri", "hostname", "ipv4"), (name, field)
            assert not {"url", "uri", "host", "callback", "webhook", "endpoint"} & set(field.split("_"))
