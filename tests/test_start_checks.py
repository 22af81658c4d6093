"""What is wrong with the settings beyond their types, all at once."""

from pathlib import Path
from typing import Any

import pytest
import trustme
from typer.testing import CliRunner

from service.cli import CONFIG_EXIT, app
from service.settings import Settings
from service.start_checks import mistakes_in
from tests.api.keys import auth

DEMO = Path(__file__).parents[1] / "models" / "demo"


def fields(settings: dict[str, Any]) -> list[str]:
    return [mistake.field for mistake in mistakes_in(Settings(checkpoint=str(DEMO), **settings))]


def test_settings_that_fit_together_have_no_mistake(tmp_path: Path) -> None:
    assert fields({"auth": auth(tmp_path)}) == []


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"checkpoint": "/none"}, "checkpoint"),
        ({"prompts": "none"}, "prompts"),
        ({"prompts": "/none/prompts.yaml"}, "prompts"),
        ({"top_n": 500}, "top_n"),
        ({"top_k": 30}, "top_k"),
        ({"max_tokens": 1000}, "max_tokens"),
        ({"request_timeout_s": 100, "shutdown": {"grace_s": 100}}, "request_timeout_s"),
        ({"admin": {"port": 8080}}, "admin.port"),
        ({"admin": {"port": 8079}, "workers": 2}, "admin.port"),
        ({"admin": {"port": 65535}, "workers": 2}, "admin.port"),
        ({"index": {"path": "/none"}}, "index.path"),
        ({"gate": {"probe": "/none"}}, "gate.probe"),
        ({"auth": {"mode": "keys"}}, "auth.key_file"),
        ({"auth": {"mode": "keys", "key_file": "/none"}}, "auth.key_file"),
        ({"tls": {"key_file": "/none"}}, "tls.key_file"),
        ({"tls": {"client_ca_file": "/none"}}, "tls.client_ca_file"),
        ({"tls": {"cert_file": "/none"}}, "tls.cert_file"),
        ({"tls": {"cert_file": str(Path(__file__))}}, "tls.cert_file"),
        ({"shutdown": {"grace_s": 5}}, "shutdown.grace_s"),
    ],
)
@pytest.mark.threat("T25")
def test_each_mistake_is_found_by_its_field(settings: dict[str, Any], field: str) -> None:
    found = mistakes_in(Settings(**{"checkpoint": str(DEMO), **settings}))
    assert [mistake.field for mistake in found] == [field]
    assert found[0].message


def test_a_key_file_is_read_beforehand(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text("- name: a\n  hash: b\n  scopes: [c]\n")
    (mistake,) = mistakes_in(Settings(checkpoint=str(DEMO), auth={"mode": "keys", "key_file": path}))
    assert mistake.field == "auth.key_file"
    assert "0.hash" in mistake.message
    assert "0.scopes.0" in mistake.message


def test_a_password_that_does_not_fit_is_found(tmp_path: Path) -> None:
    made = trustme.CA().issue_cert("127.0.0.1")
    (tmp_path / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    other = trustme.CA().issue_cert("127.0.0.1")
    other.private_key_pem.write_to_path(tmp_path / "key.pem")
    tls = {"cert_file": str(tmp_path / "cert.pem"), "key_file": str(tmp_path / "key.pem")}
    (mistake,) = mistakes_in(Settings(checkpoint=str(DEMO), tls=tls))
    assert (mistake.field, "don't go together" in mistake.message) == ("tls.cert_file", True)


@pytest.mark.threat("T25")
def test_one_start_tells_all_mistakes_of_every_kind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {
        "TOP_N": "0", "VLLM__URL": "gpu:9000", "VLLM__SURPRISE": "1", "INDEX__PATH": str(tmp_path), "TOP_K": "50",
        "GATE__PROBE": "/none", "AUTH__MODE": "keys", "TLS__CERT_FILE": "/none/cert.pem", "ADMIN__PORT": "8080",
        "RATE_LIMIT__REQUESTS": "100/minute;often", "CORS_ORIGINS": "app.example", "SHUTDOWN__GRACE_S": "1",
        "PROMPTS": "none",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"RANKRAG_{name}", value)
    result = CliRunner().invoke(app, ["serve"])
    assert result.exit_code == CONFIG_EXIT
    for name in (
        "TOP_N", "VLLM__URL", "VLLM__SURPRISE", "INDEX__PATH", "TOP_K", "GATE__PROBE", "AUTH__KEY_FILE",
        "TLS__CERT_FILE", "ADMIN__PORT", "RATE_LIMIT__REQUESTS", "CORS_ORIGINS", "SHUTDOWN__GRACE_S", "PROMPTS",
    ):  # fmt: skip
        assert result.stderr.count(f"RANKRAG_{name}: ") == 1, result.stderr


def test_a_password_in_a_wrong_url_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKRAG_VLLM__URL", "htp://me:swordfish@vllm")  # pragma: allowlist secret
    result = CliRunner().invoke(app, ["serve"])
    assert "RANKRAG_VLLM__URL" in result.stderr
    assert "swordfish" not in result.stderr
