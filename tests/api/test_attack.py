"""Five thousand hostile requests against the app: none gets through, none breaks it, none learns a secret."""

import json
import logging
import random
import string
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from service.app import create_app
from service.core.access import KEY_BYTES, key_digest, new_key
from service.logs import configure_logs
from service.settings import LimitSettings, Settings, VllmSettings
from tests.api.keys import KEYS, auth
from tests.fakes import FakeServices, client_of

SEED = 20260701
NUM_REQUESTS = 5_000
REDIS_PASSWORD = "redis-swordfish"  # pragma: allowlist secret
REDIS_URL = f"redis://user:{REDIS_PASSWORD}@127.0.0.1:1/0"
VLLM_KEY = "vllm-swordfish"  # pragma: allowlist secret
LIMITS = LimitSettings(
    max_body_bytes=20_000, max_question_chars=400, max_document_chars=2_000, max_documents=20, max_header_bytes=4_000,
    max_headers=40,
)  # fmt: skip
SECRETS = (*KEYS.values(), *(key_digest(key.encode()).hex() for key in KEYS.values()), REDIS_PASSWORD, VLLM_KEY)
TRACES = ("Traceback (most recent call last)", 'File "', "site-packages", "Error: ")

GOOD: dict[str, dict[str, object]] = {
    "/answer": {"question": "How high is Mont Blanc?"},
    "/rerank": {"query": "How high is Mont Blanc?", "documents": ["Mont Blanc is high.", {"text": "The Rhine."}]},
}
SCOPES = {"/answer": "answer", "/rerank": "rerank"}


@dataclass(frozen=True)
class Attack:
    """One request. Where `may_succeed` is False, only a 4xx is right."""

    kind: str
    method: str
    path: str
    content: bytes = b""
    headers: Mapping[str, bytes] = field(default_factory=dict)
    may_succeed: bool = False

    @property
    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        return [(name.encode(), value) for name, value in self.headers.items()]


Maker = Callable[[random.Random], Attack]


def post(kind: str, path: str, body: object, headers: dict[str, bytes], **more: Any) -> Attack:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Attack(kind, "POST", path, content, {"Content-Type": b"application/json", **headers}, **more)


def keyed(path: str) -> dict[str, bytes]:
    return {"Authorization": f"Bearer {KEYS[SCOPES[path]]}".encode()}


def route(rng: random.Random) -> str:
    return rng.choice(sorted(GOOD))


def text(rng: random.Random, length: int) -> str:
    alphabet = string.printable + "\x00\x1b\u202e\ud7ff\U0001f600<|eot_id|>"
    return "".join(rng.choices(alphabet, k=length))


def junk(rng: random.Random, depth: int = 3) -> Any:
    """Any JSON value."""
    kind = rng.randrange(9 if depth else 6)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind == 1:
        return rng.choice([0, -1, 2**63, -(2**70), 1e308, 0.1])
    if kind <= 5:
        return text(rng, rng.randrange(30))
    if kind == 6:
        return [junk(rng, depth - 1) for _ in range(rng.randrange(4))]
    return {text(rng, rng.randrange(8)): junk(rng, depth - 1) for _ in range(rng.randrange(4))}


# What is malformed


def broken_json(rng: random.Random) -> Attack:
    path = route(rng)
    content = bytearray(json.dumps(GOOD[path]).encode())
    del content[rng.randrange(1, len(content)) :]
    content += bytes(rng.randrange(256) for _ in range(rng.randrange(5)))
    return post("broken json", path, bytes(content), keyed(path), may_succeed=False)


def random_bytes(rng: random.Random) -> Attack:
    path = route(rng)
    return post("random bytes", path, rng.randbytes(rng.randrange(200)), keyed(path))


def wrong_fields(rng: random.Random) -> Attack:
    """Some of these happen to be right."""
    path = route(rng)
    names = (
        "question", "query", "documents", "passages", "filters", "top_n", "top_k", "stream", "priority", "deadline_ms",
        "min_relevance", "max_tokens", "cache", "return_documents", "model", text(rng, 6),
    )  # fmt: skip
    body = {**GOOD[path], **{rng.choice(names): junk(rng) for _ in range(rng.randrange(1, 4))}}
    return post("wrong fields", path, body, keyed(path), may_succeed=True)


def deep_json(rng: random.Random) -> Attack:
    path, depth = route(rng), rng.randrange(1_000, 8_000)
    opening = rng.choice([b"[", b'{"a":'])
    return post("deep json", path, b'{"question": ' + opening * (depth // len(opening)), keyed(path))


def wrong_content_type(rng: random.Random) -> Attack:
    path = route(rng)
    kind = rng.choice([b"text/plain", b"multipart/form-data; boundary=x", b"application/xml", b"\xff", b"a" * 300])
    attack = post("content type", path, GOOD[path], keyed(path))
    return Attack(attack.kind, "POST", path, attack.content, {**attack.headers, "Content-Type": kind})


# What is too large


def too_large(rng: random.Random) -> Attack:
    path = route(rng)
    spaces = b" " * rng.randrange(20_001, 60_000)
    bodies: dict[str, list[object]] = {
        "/answer": [
            spaces, {"question": "x" * rng.randrange(401, 9_000)}, {"question": "q", "top_n": 201, "top_k": 21},
            {"question": "q", "passages": [{"text": "x" * 2_001}]},
        ],
        "/rerank": [
            spaces, {"query": "x" * 401, "documents": ["d"]}, {"query": "q", "documents": ["x" * 2_001]},
            {"query": "q", "documents": ["d"] * rng.randrange(21, 900)},
        ],
    }  # fmt: skip
    return post("too large", path, rng.choice(bodies[path]), keyed(path))


def large_head(rng: random.Random) -> Attack:
    path = route(rng)
    many = {f"X-{number}": b"x" for number in range(rng.randrange(41, 120))}
    more: dict[str, bytes] = rng.choice([many, {"X-Long": b"x" * rng.randrange(4_001, 30_000)}])
    return post("large head", path, GOOD[path], {**keyed(path), **more})


# Who may not


def no_key(rng: random.Random) -> Attack:
    path = route(rng)
    headers = rng.choice([{}, {"Cookie": f"api-key={KEYS['admin']}".encode()}, {"Proxy-Authorization": b"Bearer x"}])
    return post("no key", rng.choice([path, f"{path}?api-key={KEYS['admin']}"]), GOOD[path], headers)


def wrong_key(rng: random.Random) -> Attack:
    path = route(rng)
    real = KEYS[SCOPES[path]]
    wrong: list[bytes] = [
        new_key(rng.randbytes(KEY_BYTES)).encode(), real[:-1].encode(), (real + "A").encode(), real.lower().encode(),
        real.removeprefix("rrk_").encode(), key_digest(real.encode()).hex().encode(), b"sha256:" + b"0" * 64,
        real.swapcase().encode(), b"\xff" * 43, b"*", b"null", real.encode("utf-16-le"), f"{real},{real}".encode(),
        f'"{real}"'.encode(), rng.randbytes(rng.randrange(1, 90)).replace(b"\n", b"").replace(b"\r", b"") or b"x",
    ]  # fmt: skip
    token = rng.choice(wrong)
    name = rng.choice(["Authorization", "X-API-Key", "api-key"])
    value = rng.choice([b"Bearer ", b"bearer ", b"Basic ", b"Token "]) + token if name == "Authorization" else token
    return post("wrong key", path, GOOD[path], {name: value})


def wrong_scope(rng: random.Random) -> Attack:
    path = rng.choice(["/answer", "/rerank", "/metrics"])
    others = [key for scope, key in KEYS.items() if scope != {**SCOPES, "/metrics": "admin"}[path]]
    headers = {rng.choice(["X-API-Key", "api-key"]): rng.choice(others).encode()}
    if path == "/metrics":
        return Attack("wrong scope", "GET", path, b"", headers)
    return post("wrong scope", path, GOOD[path], headers)


def odd_path(rng: random.Random) -> Attack:
    paths = (
        "/answer/", "//answer", "/ANSWER", "/answer/../rerank", "/%61nswer%00", "/rerank;/livez", "/livez/../answer",
        "/livez/answer", "/metrics/", "/%2e%2e/%2e%2e/etc/passwd", "/admin", "/v1/completions", "/answer%0d%0aX: y",
        "/docs/../metrics", f"/{text(rng, 9).encode().hex()}", "/.env", "/openapi.json/../metrics",
    )  # fmt: skip
    headers = rng.choice([{}, {"X-API-Key": KEYS["answer"].encode()}])
    return Attack("odd path", rng.choice(["GET", "POST", "PUT"]), rng.choice(paths), b"{}", dict(headers))


def odd_method(rng: random.Random) -> Attack:
    method = rng.choice(["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "HEAD", "PROPFIND", "CONNECT"])
    path = route(rng)
    return Attack("odd method", method, path, b"", rng.choice([{}, keyed(path)]))


def smuggled(rng: random.Random) -> Attack:
    """Headers that proxies and frameworks are known to trust, without a key."""
    path = route(rng)
    headers = rng.choice(
        [
            {"X-Forwarded-For": b"127.0.0.1"}, {"X-Original-URL": b"/livez"}, {"X-Rewrite-URL": b"/livez"},
            {"X-HTTP-Method-Override": b"GET"}, {"Host": b"localhost:8081"}, {"Forwarded": b"for=127.0.0.1"},
            {"X-Request-ID": b"a" * 200 + b"{}<script>"}, {"X-Deadline-Ms": b"-1"}, {"Origin": b"null"},
            {"Upgrade": b"websocket", "Connection": b"Upgrade"}, {"Range": b"bytes=0-"}, {"Expect": b"100-continue"},
        ]
    )  # fmt: skip
    return post("smuggled header", path, GOOD[path], headers)


def good(rng: random.Random) -> Attack:
    """So that a wall that lets nobody in is noticed."""
    path = route(rng)
    return post("good", path, GOOD[path], keyed(path), may_succeed=True)


MAKERS: tuple[Maker, ...] = (
    broken_json, random_bytes, wrong_fields, wrong_fields, deep_json, wrong_content_type, too_large, large_head, no_key,
    wrong_key, wrong_key, wrong_scope, odd_path, odd_method, smuggled, good,
)  # fmt: skip


def attacks() -> Iterator[Attack]:
    rng = random.Random(SEED)
    for number in range(NUM_REQUESTS):
        yield MAKERS[number % len(MAKERS)](rng)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        auth=auth(tmp_path), limits=LIMITS, vllm=VllmSettings(api_key=VLLM_KEY), redis_url=REDIS_URL,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    before, root, own = structlog.get_config(), logging.getLogger(), logging.getLogger("service")
    handlers, levels = root.handlers[:], (root.level, own.level)
    yield
    structlog.configure(**before)
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    own.setLevel(levels[1])


@pytest.fixture
async def attacked(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(create_app(settings, FakeServices().open)) as client:
        yield client


@pytest.mark.threat("T10")
@pytest.mark.threat("T08")
@pytest.mark.threat("T17")
async def test_nothing_gets_through_nothing_breaks_and_no_secret_is_told(
    attacked: httpx.AsyncClient, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logs(settings.model_copy(update={"log_level": "debug"}))
    statuses: dict[str, dict[int, int]] = {}
    for attack in attacks():
        url = f"{str(attacked.base_url).rstrip('/')}{attack.path}"  # whole, or a path of `//x` would name a host
        request = attacked.build_request(attack.method, url, content=attack.content, headers=attack.raw_headers)
        response = await attacked.send(request)
        of_kind = statuses.setdefault(attack.kind, {})
        of_kind[response.status_code] = of_kind.get(response.status_code, 0) + 1
        told = f"{response.headers}\n{response.text}"
        assert response.status_code < 500, (attack, told)
        assert attack.may_succeed or response.status_code >= 400, (attack, told)
        assert not [secret for secret in SECRETS if secret in told], attack
        assert not [trace for trace in TRACES if trace in response.text], (attack, told)
    written = "".join(capsys.readouterr())
    assert sum(sum(counts.values()) for counts in statuses.values()) == NUM_REQUESTS
    assert not [secret for secret in SECRETS if secret in written]
    assert not [trace for trace in TRACES if trace in written]
    assert written.count('"event": "request"') == NUM_REQUESTS
    assert set(statuses["good"]) == {200}
    assert set(statuses["no key"]) == set(statuses["wrong key"]) == set(statuses["smuggled header"]) == {401}
    assert set(statuses["wrong scope"]) == {403}
    assert set(statuses["too large"]) == {413, 422}
    assert set(statuses["large head"]) == {431}
