"""The page at `/`: open to all, loads nothing from elsewhere, and never takes text for markup."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from service.api.playground import FILES
from service.app import create_app
from service.settings import Settings
from tests.api.keys import auth
from tests.fakes import FakeServices, client_of

ASSETS = sorted(path.name for path in FILES.iterdir() if path.suffix in (".css", ".js", ".svg"))
SCRIPTS = sorted(FILES.glob("*.js"))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(auth=auth(tmp_path))


async def test_the_page_needs_no_key(client: httpx.AsyncClient) -> None:
    response = await client.get("/")
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "rankrag" in response.text


@pytest.mark.parametrize("name", ASSETS)
async def test_nor_does_what_it_loads(client: httpx.AsyncClient, name: str) -> None:
    response = await client.get(f"/playground/{name}")
    assert response.status_code == 200
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Content-Type"].split(";")[0] in {"text/css", "text/javascript", "image/svg+xml"}


@pytest.mark.threat("T27")
async def test_it_may_load_only_what_is_ours(client: httpx.AsyncClient) -> None:
    response = await client.get("/")
    assert response.headers["Content-Security-Policy"].startswith("default-src 'self';")
    assert "unsafe" not in response.headers["Content-Security-Policy"]
    loaded = re.findall(r'(?:src|href)="([^"]+)"', response.text)
    assert [name.removeprefix("playground/") for name in loaded if name.startswith("playground/")] == [
        "icon.svg", "playground.css", "main.js",
    ]  # fmt: skip
    assert [name for name in loaded if "//" in name] == []


@pytest.mark.parametrize(
    "path", ["/playground/", "/playground/../settings.py", "/playground/%2e%2e/app.py", "/playground/none.js"]
)
async def test_nothing_else_is_served(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code in {401, 404}


@pytest.mark.threat("T27")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_text_is_never_taken_for_markup(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    assert (
        re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|DOMParser", text) is None
    )


def test_every_import_is_there() -> None:
    imported = {
        name for script in SCRIPTS for name in re.findall(r'from "\./([^"]+)"', script.read_text(encoding="utf-8"))
    }
    assert imported | {"main.js"} == {script.name for script in SCRIPTS}


@pytest.fixture
async def without(tmp_path: Path, fakes: FakeServices) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings(auth=auth(tmp_path), playground=False)
    async with client_of(create_app(settings, fakes.open)) as client:
        yield client


@pytest.mark.parametrize("path", ["/", "/playground/main.js"])
async def test_it_can_be_left_out(without: httpx.AsyncClient, path: str) -> None:
    assert (await without.get(path)).status_code == 404
