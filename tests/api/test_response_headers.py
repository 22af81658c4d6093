"""Headers on every response, and what pages of other origins may do."""

import httpx
import pytest
from fastapi import FastAPI
from starlette.responses import HTMLResponse

from service.api.response_headers import SECURITY_HEADERS, security_headers
from service.app import create_app
from service.settings import Settings
from tests.fakes import FakeServices, client_of

RERANK = {"query": "q", "documents": ["d"]}
ORIGIN = "https://app.example"
PREFLIGHT = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "X-API-Key"}


@pytest.mark.parametrize(
    ("method", "path", "content"),
    [
        ("GET", "/livez", b""),
        ("POST", "/rerank", b'{"query": "q", "documents": ["d"]}'),
        ("POST", "/rerank", b"{"),
        ("GET", "/none", b""),
        ("GET", "/answer", b""),
    ],
)
@pytest.mark.threat("T19")
async def test_every_response_tells_browsers_to_do_nothing_with_it(
    client: httpx.AsyncClient, method: str, path: str, content: bytes
) -> None:
    response = await client.request(method, path, content=content)
    for name, value in SECURITY_HEADERS.items():
        assert response.headers.get_list(name) == [value]


@pytest.mark.threat("T19")
async def test_unexpected_errors_have_them_too(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    fakes.scorer.error = RuntimeError("bug")
    response = await client.post("/rerank", json=RERANK)
    assert response.status_code == 500
    for name, value in SECURITY_HEADERS.items():
        assert response.headers.get_list(name) == [value]


async def test_a_page_may_bring_its_own_policy(app: FastAPI) -> None:
    @app.get("/page")
    async def page() -> HTMLResponse:
        return HTMLResponse("<p>", headers={"Content-Security-Policy": "default-src 'nonce-1'"})

    async with client_of(app) as client:
        response = await client.get("/page")
    assert response.headers.get_list("Content-Security-Policy") == ["default-src 'nonce-1'"]
    assert response.headers["X-Frame-Options"] == "DENY"


async def test_the_documents_pages_may_load_their_scripts(client: httpx.AsyncClient) -> None:
    for path in ("/docs", "/redoc"):
        response = await client.get(path)
        assert response.status_code == 200
        scripts = {part.partition('"')[0].partition("/npm")[0] for part in response.text.split('<script src="')[1:]}
        assert all(origin in response.headers["Content-Security-Policy"] for origin in scripts)


def test_https_is_kept_to() -> None:
    assert "Strict-Transport-Security" in security_headers({"path": "/", "scheme": "https"})
    assert "Strict-Transport-Security" not in security_headers({"path": "/", "scheme": "http"})


# Other origins


@pytest.mark.threat("T19")
async def test_pages_of_other_origins_may_do_nothing_by_default(client: httpx.AsyncClient) -> None:
    response = await client.post("/rerank", json=RERANK, headers={"Origin": ORIGIN})
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert (await client.options("/rerank", headers=PREFLIGHT)).status_code == 405


@pytest.mark.threat("T19")
async def test_only_origins_that_are_named_may_ask(fakes: FakeServices) -> None:
    app = create_app(Settings(cors_origins=f"{ORIGIN}, http://localhost:3000"), fakes.open)
    async with client_of(app) as client:
        allowed = await client.options("/rerank", headers=PREFLIGHT)
        assert (allowed.status_code, allowed.headers["Access-Control-Allow-Origin"]) == (200, ORIGIN)
        assert "Access-Control-Allow-Credentials" not in allowed.headers
        answered = await client.post("/rerank", json=RERANK, headers={"Origin": ORIGIN})
        assert answered.headers["Access-Control-Allow-Origin"] == ORIGIN
        refused = await client.options("/rerank", headers={**PREFLIGHT, "Origin": "https://evil.example"})
        assert (refused.status_code, "Access-Control-Allow-Origin" in refused.headers) == (400, False)
