"""Secrets are nowhere that people read."""

import io
import json
import logging

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from service.app import create_app
from service.core.access import KEY_BYTES, new_key
from service.errors import EngineError
from service.redaction import RedactingFormatter, redact, redacting, secrets_in
from service.settings import Settings, VllmSettings
from tests.fakes import FakeServices, client_of


@pytest.mark.threat("T17")
@given(st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES), st.text(max_size=20), st.text(max_size=20))
def test_a_key_is_hidden_wherever_it_stands(entropy: bytes, before: str, after: str) -> None:
    key = new_key(entropy)
    assert key not in redact(f"{before} {key} {after}")
    assert key not in redact(json.dumps({before: {"headers": [f"Bearer {key}"]}}))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: Bearer abcdefgh12", "Authorization: Bearer ***"),
        ("authorization: basic dXNlcjpwYXNz", "authorization: basic ***"),
        ("redis://user:pass@redis:6379/0", "redis://***@redis:6379/0"),  # pragma: allowlist secret
        ("https://user:pa%40ss@vllm:8000/v1 refused", "https://***@vllm:8000/v1 refused"),  # pragma: allowlist secret
        ("http://vllm:8000/v1 refused", "http://vllm:8000/v1 refused"),
        ("mail me@example.org about http://vllm", "mail me@example.org about http://vllm"),
        ("no bearer of news", "no bearer of news"),
    ],
)
@pytest.mark.threat("T17")
def test_what_looks_like_a_secret_is_hidden_and_nothing_else(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_the_settings_own_secrets_are_known() -> None:
    settings = Settings(
        redis_url="redis://user:red%40pass@redis:6379/0",  # pragma: allowlist secret
        vllm=VllmSettings(url="http://me:vllmpass@vllm:8000", api_key=SecretStr("swordfish")),
    )
    assert set(secrets_in(settings)) == {"swordfish", "vllmpass", "red%40pass", "red@pass"}


@given(st.text(min_size=4, max_size=20), st.text(max_size=10))
def test_known_secrets_are_hidden_also_as_json_writes_them(secret: str, around: str) -> None:
    hide = redacting([secret])
    line = json.dumps({"event": f"{around} {secret} {around}"})
    if secret not in json.dumps({"event": f"{around}  {around}"}):
        assert secret not in hide(line)
        assert json.dumps(secret)[1:-1] not in hide(line)


def test_a_library_that_logs_a_secret_with_its_traceback_is_muzzled() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(RedactingFormatter(logging.Formatter(), redacting(["swordfish"])))
    logger = logging.Logger("library")
    logger.addHandler(handler)
    try:
        raise ValueError("swordfish at redis://user:pass@redis")  # pragma: allowlist secret
    except ValueError:
        logger.exception("failed with %s", "swordfish")
    assert "swordfish" not in stream.getvalue()
    assert "user:pass" not in stream.getvalue()
    assert "Traceback" in stream.getvalue()


@pytest.mark.threat("T17")
async def test_an_error_hides_the_secret_in_what_vllm_said() -> None:
    fakes = FakeServices()
    fakes.scorer.error = EngineError("http://me:vllmpass@vllm:8000 refused")
    async with client_of(create_app(Settings(), fakes.open)) as client:
        response: httpx.Response = await client.post("/rerank", json={"query": "q", "documents": ["d"]})
    assert "vllmpass" not in response.text
    assert "http://***@vllm:8000 refused" in response.text
