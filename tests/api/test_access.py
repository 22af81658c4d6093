"""Who may ask, and how often, over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import structlog
from fastapi import FastAPI

from service.api.services import Dependency
from service.app import create_app
from service.core.access import ANY_KEY_PATHS, OPEN_PATHS, SCOPE_OF
from service.errors import ConfigError, ForbiddenError, NotFoundError, RateLimitedError, UnauthenticatedError
from service.settings import AuthSettings, RateLimitSettings, Settings
from tests.api.keys import KEYS, auth, bearer
from tests.api.test_errors import assert_error
from tests.fakes import FakeServices, client_of

BODIES = {"/answer": {"question": "mont blanc"}, "/rerank": {"query": "q", "documents": ["d"]}}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(auth=auth(tmp_path))


# Keys


@pytest.mark.parametrize("path", sorted(BODIES))
@pytest.mark.threat("T01")
async def test_no_key_no_answer(client: httpx.AsyncClient, fakes: FakeServices, path: str) -> None:
    response = await client.post(path, json=BODIES[path])
    assert_error(response, UnauthenticatedError)
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="rankrag"'
    assert fakes.scorer.calls == []


@pytest.mark.threat("T01")
async def test_without_a_key_no_byte_of_the_body_is_read(client: httpx.AsyncClient) -> None:
    num_read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal num_read
        while True:
            num_read += 1
            yield b" " * 100

    response = await client.post("/rerank", content=endless())
    assert (response.status_code, num_read) == (401, 0)


@pytest.mark.parametrize("path", sorted(BODIES))
@pytest.mark.parametrize("name", ["Authorization", "X-API-Key", "api-key"])
async def test_a_key_opens_its_path(client: httpx.AsyncClient, path: str, name: str) -> None:
    key = KEYS[SCOPE_OF[path]]
    headers = {name: f"Bearer {key}" if name == "Authorization" else key}
    assert (await client.post(path, json=BODIES[path], headers=headers)).status_code == 200


async def test_a_key_that_nobody_has_is_told_from_none(client: httpx.AsyncClient) -> None:
    response = await client.post("/rerank", json=BODIES["/rerank"], headers={"X-API-Key": "rrk_other"})
    assert_error(response, UnauthenticatedError, message="this API key is not known")


@pytest.mark.threat("T04")
async def test_another_scope_is_named(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    response = await client.post("/rerank", json=BODIES["/rerank"], headers=bearer("answer"))
    assert_error(response, ForbiddenError, message="this API key lacks the scope `rerank`")
    assert 'error="insufficient_scope", scope="rerank"' in response.headers["WWW-Authenticate"]
    assert fakes.scorer.calls == []


@pytest.mark.parametrize("scope", ["answer", "rerank", "admin"])
async def test_models_are_told_to_whoever_has_a_key(client: httpx.AsyncClient, scope: str) -> None:
    assert (await client.get("/v1/models", headers=bearer(scope))).status_code == 200
    assert (await client.get("/v1/models")).status_code == 401


async def test_probes_need_no_key(client: httpx.AsyncClient) -> None:
    assert [(await client.get(path)).status_code for path in ("/livez", "/readyz")] == [200, 200]


@pytest.mark.threat("T18")
async def test_probes_tell_strangers_no_details(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    fakes.engine = Dependency(False, "http://10.0.0.1:8000 can't be reached")
    response = await client.get("/readyz")
    assert response.json()["dependencies"]["engine"] == {"ok": False, "required": True, "detail": ""}
    assert "10.0.0.1" not in response.text


async def test_the_log_names_the_caller(client: httpx.AsyncClient) -> None:
    with structlog.testing.capture_logs() as logged:
        await client.post("/rerank", json=BODIES["/rerank"], headers=bearer("rerank"))
        await client.post("/rerank", json=BODIES["/rerank"])
    assert [line.get("caller") for line in logged if line["event"] == "request"] == ["rerank", None]


@pytest.mark.parametrize(("scope", "status"), [("admin", 200), ("answer", 403), ("rerank", 403)])
@pytest.mark.threat("T21")
async def test_metrics_on_the_main_port_are_for_administrators(
    client: httpx.AsyncClient, scope: str, status: int
) -> None:
    assert (await client.get("/metrics", headers=bearer(scope))).status_code == status
    assert (await client.get("/metrics")).status_code == 401


async def test_other_paths_are_not_told_of(client: httpx.AsyncClient) -> None:
    assert_error(await client.get("/secret"), UnauthenticatedError)
    assert_error(await client.get("/secret", headers=bearer("answer")), NotFoundError)
    assert_error(await client.get("/secret", headers=bearer("admin")), NotFoundError)


@pytest.mark.threat("T05")
async def test_every_path_of_the_document_is_open_or_has_its_scope(app: FastAPI) -> None:
    paths = set(app.openapi()["paths"])
    assert set(SCOPE_OF) <= paths
    assert paths <= set(SCOPE_OF) | OPEN_PATHS | ANY_KEY_PATHS


async def test_the_document_says_which_paths_need_a_key(app: FastAPI) -> None:
    document = app.openapi()
    schemes = document["components"]["securitySchemes"]
    assert {scheme["type"] for scheme in schemes.values()} == {"http", "apiKey"}
    for path, operations in document["paths"].items():
        (operation,) = operations.values()
        assert ("security" in operation) == (path in SCOPE_OF or path in ANY_KEY_PATHS)
        if path in SCOPE_OF:
            assert {"401", "403"} <= set(operation["responses"])


@pytest.mark.threat("T06")
async def test_a_key_that_is_taken_out_is_refused_without_a_restart(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    path = settings.auth.key_file
    assert path is not None
    path.write_text("".join(path.read_text().partition("- name: rerank")[::2][:1]))
    async with asyncio.timeout(5):
        while (await client.post("/rerank", json=BODIES["/rerank"], headers=bearer("rerank"))).status_code != 401:  # noqa: ASYNC110 (the app sets no event)
            await asyncio.sleep(0.01)
    assert (await client.post("/answer", json=BODIES["/answer"], headers=bearer("answer"))).status_code == 200


@pytest.mark.threat("T25")
async def test_an_app_without_keys_does_not_start_unless_that_is_wanted(fakes: FakeServices) -> None:
    app = create_app(Settings(auth=AuthSettings(mode="keys")), fakes.open)
    with pytest.raises(ConfigError, match="RANKRAG_AUTH__MODE=off"):
        async with app.router.lifespan_context(app):
            pass


# Rates


@asynccontextmanager
async def client_with(
    tmp_path: Path, requests: str | None, *, mode: str = "keys", **rate_limits: str
) -> AsyncIterator[httpx.AsyncClient]:
    found = auth(tmp_path, **rate_limits) if mode == "keys" else AuthSettings(mode="off")
    settings = Settings(auth=found, rate_limit=RateLimitSettings(requests=requests))
    async with client_of(create_app(settings, FakeServices().open)) as client:
        yield client


@pytest.mark.threat("T07")
async def test_one_request_too_many_is_a_429_that_says_when(tmp_path: Path) -> None:
    async with client_with(tmp_path, "2/hour") as client:
        for _ in range(2):
            response = await client.post("/rerank", json=BODIES["/rerank"], headers=bearer("rerank"))
            assert response.status_code == 200
        refused = await client.post("/rerank", json=BODIES["/rerank"], headers=bearer("rerank"))
        assert_error(refused, RateLimitedError)
        assert 1 <= int(refused.headers["Retry-After"]) <= 3600
        other = await client.post("/answer", json=BODIES["/answer"], headers=bearer("answer"))
        assert other.status_code == 200
        metrics = await client.get("/metrics", headers=bearer("admin"))
        assert 'rankrag_errors_total{code="rate_limited"} 1.0' in metrics.text


async def test_what_is_left_is_told_with_every_answer(tmp_path: Path) -> None:
    async with client_with(tmp_path, "5/hour") as client:
        response = await client.post("/rerank", json=BODIES["/rerank"], headers=bearer("rerank"))
        assert response.headers["RateLimit-Policy"] == '"default";q=5;w=3600'
        assert response.headers["RateLimit"].startswith('"default";r=4;t=')
        assert response.headers["X-RateLimit-Limit"] == "5"
        assert response.headers["X-RateLimit-Remaining"] == "4"
        assert "RateLimit" not in (await client.get("/livez")).headers


async def test_a_keys_own_rate_goes_first(tmp_path: Path) -> None:
    async with client_with(tmp_path, "1/hour", rerank="3/hour") as client:
        statuses = [
            (await client.post("/rerank", json=BODIES["/rerank"], headers=bearer("rerank"))).status_code
            for _ in range(4)
        ]
        assert statuses == [200, 200, 200, 429]


async def test_without_a_rate_nothing_is_counted_or_told(tmp_path: Path) -> None:
    async with client_with(tmp_path, None) as client:
        response = await client.post("/rerank", json=BODIES["/rerank"], headers=bearer("rerank"))
        assert response.status_code == 200
        assert not [name for name in response.headers if "ratelimit" in name.lower()]


@pytest.mark.threat("T07")
async def test_without_keys_an_address_is_a_caller(tmp_path: Path) -> None:
    async with client_with(tmp_path, "1/hour", mode="off") as client:
        statuses = [(await client.post("/rerank", json=BODIES["/rerank"])).status_code for _ in range(2)]
        assert statuses == [200, 429]


async def test_who_has_no_key_takes_nothing_from_those_who_have(tmp_path: Path) -> None:
    async with client_with(tmp_path, "1/hour") as client:
        for _ in range(3):
            assert (await client.post("/rerank", json=BODIES["/rerank"])).status_code == 401
        response = await client.post("/rerank", json=BODIES["/rerank"], headers=bearer("rerank"))
        assert response.status_code == 200
