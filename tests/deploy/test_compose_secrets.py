"""Secrets of the compose file: all of them, fitting one another, never twice the same."""

from pathlib import Path

from deploy.compose_secrets import main, secret_files
from service.adapters.key_file import parse_keys
from tests.deploy.test_compose import COMPOSE


def test_every_secret_of_the_compose_file_is_made(tmp_path: Path) -> None:
    assert main(tmp_path / "secrets") == 0
    wanted = {Path(secret["file"]).name for secret in COMPOSE["secrets"].values()}
    assert {path.name for path in (tmp_path / "secrets").iterdir()} == wanted | {"api_key"}
    assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0


def test_the_key_is_one_of_the_key_file_and_the_url_has_the_password() -> None:
    files = secret_files()
    found = parse_keys(files["api_keys.yaml"].encode(), "test").find(files["api_key"].encode())
    assert found is not None
    assert found.scopes == {"answer", "rerank", "admin"}
    assert files["redis_url"] == f"redis://:{files['redis_password']}@redis:6379/0"


def test_nothing_is_overwritten_and_nothing_repeats(tmp_path: Path) -> None:
    main(tmp_path / "secrets")
    before = (tmp_path / "secrets" / "api_key").read_text()
    assert main(tmp_path / "secrets") == 1
    assert (tmp_path / "secrets" / "api_key").read_text() == before
    assert not set(secret_files().values()) & set(secret_files().values())
