"""`make compose-secrets`: the files that docker-compose.yml mounts as secrets, made once and never overwritten."""

import secrets
import sys
from pathlib import Path

from service.adapters.key_file import entry_text
from service.core.access import KEY_BYTES, key_digest, new_key

PASSWORD_BYTES = 32


def secret_files() -> dict[str, str]:
    """Content by file name. `api_key` is for the callers, the rest for the containers."""
    key = new_key(secrets.token_bytes(KEY_BYTES))
    redis_password = secrets.token_urlsafe(PASSWORD_BYTES)
    return {
        "api_key": key,
        "api_keys.yaml": entry_text("compose", key_digest(key.encode()), ("answer", "rerank", "admin")),
        "redis_password": redis_password,
        "redis_url": f"redis://:{redis_password}@redis:6379/0",
        "vllm_api_key": secrets.token_urlsafe(PASSWORD_BYTES),
        "grafana_password": secrets.token_urlsafe(PASSWORD_BYTES),
    }


def main(directory: Path) -> int:
    """0, or 1 where there are some already.

    The directory is closed to others, the files in it are not: a container reads them as a user of its own.
    """
    try:
        directory.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        sys.stderr.write(f"{directory} is there already: remove it to make new secrets\n")
        return 1
    for name, content in secret_files().items():
        (directory / name).write_text(content, encoding="utf-8")
        (directory / name).chmod(0o644)
    sys.stdout.write(f"{directory}/api_key is your key: authorization: Bearer $(cat {directory}/api_key)\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
