"""Keys, scopes and paths."""

import hashlib
import hmac
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.access import (
    ANY_KEY_PATHS,
    KEY_BYTES,
    OPEN_PATHS,
    PLAYGROUND,
    SCOPE_OF,
    SCOPES,
    ApiKey,
    Keyring,
    Scope,
    authorise,
    caller_at,
    given_token,
    key_digest,
    new_key,
)
from service.errors import ForbiddenError, NotFoundError, RankRAGError, UnauthenticatedError

KEYS = {scope: new_key(bytes([number]) * KEY_BYTES).encode() for number, scope in enumerate(SCOPES)}
KEYRING = Keyring(tuple(ApiKey(scope, key_digest(key), frozenset({scope})) for scope, key in KEYS.items()))


def bearer(key: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", b"Bearer " + key)]


@pytest.mark.parametrize("path", sorted(SCOPE_OF))
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.threat("T04")
def test_only_the_paths_own_scope_opens_it(path: str, scope: Scope) -> None:
    if SCOPE_OF[path] == scope:
        found = authorise(KEYRING, bearer(KEYS[scope]), path)
        assert found is not None
        assert found.name == scope
    else:
        with pytest.raises(ForbiddenError, match=SCOPE_OF[path]):
            authorise(KEYRING, bearer(KEYS[scope]), path)


@pytest.mark.parametrize("path", sorted(OPEN_PATHS))
def test_open_paths_need_no_key(path: str) -> None:
    assert authorise(KEYRING, [], path) is None


@pytest.mark.threat("T05")
@given(st.text(max_size=20))
def test_a_path_that_nobody_listed_is_closed_but_to_administrators(path: str) -> None:
    if path in OPEN_PATHS or path in SCOPE_OF or path in ANY_KEY_PATHS or path.startswith(f"{PLAYGROUND}/"):
        return
    with pytest.raises(UnauthenticatedError):
        authorise(KEYRING, [], path)
    with pytest.raises(NotFoundError):
        authorise(KEYRING, bearer(KEYS["answer"]), path)
    found = authorise(KEYRING, bearer(KEYS["admin"]), path)
    assert found is not None


@pytest.mark.threat("T02")
@given(st.binary(max_size=80))
def test_nothing_but_the_key_itself_is_the_key(token: bytes) -> None:
    key = KEYRING.find(token)
    assert (key is not None) == (token in KEYS.values())


@pytest.mark.threat("T02")
def test_every_key_is_compared_in_constant_time_also_after_the_right_one(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []
    really = hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(one)
        return really(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for token in (*KEYS.values(), b"rrk_other"):
        compared.clear()
        KEYRING.find(token)
        assert compared == [key.digest for key in KEYRING.keys]


@pytest.mark.threat("T03")
def test_what_is_kept_of_a_key_is_its_digest() -> None:
    key = new_key(secrets.token_bytes(KEY_BYTES)).encode()
    kept = ApiKey("shop", key_digest(key), frozenset({"answer"}))
    assert kept.digest == hashlib.sha256(key).digest()
    assert key not in repr(kept).encode()
    assert Keyring((kept,)).find(kept.digest) is None
    assert Keyring((kept,)).find(kept.digest.hex().encode()) is None


def test_a_key_keeps_all_of_its_chance() -> None:
    key = new_key(b"\xff" * KEY_BYTES)
    assert key.startswith("rrk_")
    assert len(key) == len("rrk_") + 43
    assert len({new_key(secrets.token_bytes(KEY_BYTES)) for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ([(b"authorization", b"Bearer k")], b"k"),
        ([(b"authorization", b"bearer  k ")], b"k"),
        ([(b"x-api-key", b"k")], b"k"),
        ([(b"api-key", b" k ")], b"k"),
        ([(b"authorization", b"Bearer a"), (b"x-api-key", b"b")], b"a"),
        ([(b"authorization", b"Basic azpr")], None),
        ([(b"authorization", b"Bearer")], None),
        ([(b"authorization", b"Bearer "), (b"x-api-key", b"")], None),
        ([(b"cookie", b"api-key=k"), (b"x-forwarded-api-key", b"k")], None),
        ([], None),
    ],
)
def test_a_key_is_taken_from_three_headers_and_nowhere_else(
    headers: list[tuple[bytes, bytes]], token: bytes | None
) -> None:
    assert given_token(headers) == token


@given(st.binary(max_size=60), st.sampled_from(sorted(SCOPE_OF)))
def test_no_header_breaks_the_check(value: bytes, path: str) -> None:
    for name in (b"authorization", b"x-api-key", b"api-key"):
        with pytest.raises(RankRAGError):
            authorise(KEYRING, [(name, value)], path)


@pytest.mark.parametrize(
    ("address", "caller"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("testclient", "testclient"),
    ],
)
def test_a_client_is_its_address_or_its_network(address: str, caller: str) -> None:
    assert caller_at(address) == caller
