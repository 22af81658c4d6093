"""A key file with a key for each scope, for apps that want keys."""

from pathlib import Path

from service.adapters.key_file import entry_text
from service.core.access import KEY_BYTES, SCOPES, key_digest, new_key
from service.settings import AuthSettings

KEYS: dict[str, str] = {scope: new_key(bytes([number + 1]) * KEY_BYTES) for number, scope in enumerate(SCOPES)}


def auth(tmp_path: Path, **rate_limits: str) -> AuthSettings:
    """Keys are called by their scope; `rate_limits` are of single ones."""
    path = tmp_path / "keys.yaml"
    entries = [
        entry_text(scope, key_digest(key.encode()), [scope], rate_limits.get(scope)) for scope, key in KEYS.items()
    ]
    path.write_text("".join(entries))
    return AuthSettings(mode="keys", key_file=path, reload_interval_s=0.01)


def bearer(scope: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {KEYS[scope]}"}
