"""Settings from the environment, and their table in the README."""

import os
import re
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError
from pydantic_settings import SettingsError

from service.settings import SOURCES, Settings, describe_settings, read_settings, unknown_variables, variable_of

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("RANKRAG_"):
            monkeypatch.delenv(name)


def test_defaults_need_no_environment() -> None:
    settings = Settings()
    assert str(settings.vllm.url) == "http://127.0.0.1:8000/"
    assert (settings.index.path, settings.redis_url, settings.vllm.api_key) == (None, None, None)


def test_nested_variables_join_with_two_underscores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKRAG_VLLM__URL", "http://gpu:9000")
    monkeypatch.setenv("RANKRAG_VLLM__API_KEY", "secret")
    monkeypatch.setenv("RANKRAG_INDEX__PATH", "/indexes/wiki")
    monkeypatch.setenv("RANKRAG_LIMITS__MAX_TOP_N", "500")
    monkeypatch.setenv("RANKRAG_TOP_N", "100")
    settings = Settings()
    assert str(settings.vllm.url) == "http://gpu:9000/"
    assert settings.vllm.api_key is not None
    assert settings.vllm.api_key.get_secret_value() == "secret"
    assert settings.index.path == Path("/indexes/wiki")
    assert (settings.limits.max_top_n, settings.top_n) == (500, 100)


def test_url_may_be_several_with_commas_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKRAG_VLLM__URL", "http://gpu-0:9000, https://gpu-1/base")
    assert Settings().vllm.urls == ("http://gpu-0:9000/", "https://gpu-1/base")


@pytest.mark.parametrize("url", ["http://gpu-0,gpu-1:9000", "http://gpu-0,", ",", "", "ftp://gpu-0", "http://"])
def test_url_that_is_none_is_named_with_its_field(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKRAG_VLLM__URL", url)
    with pytest.raises(ValidationError, match="is no URL of a server") as caught:
        Settings()
    assert [error["loc"] for error in caught.value.errors()] == [("vllm", "url")]


def test_host_whose_certificate_would_not_name_its_addresses_is_not_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKRAG_VLLM__URL", "https://vllm:8000")
    monkeypatch.setenv("RANKRAG_VLLM__RESOLVE", "true")
    with pytest.raises(ValidationError, match="certificate") as caught:
        Settings()
    assert [error["loc"] for error in caught.value.errors()] == [("vllm", "resolve")]


def test_one_nested_variable_leaves_its_neighbours_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKRAG_CACHE__SCORE_TTL_S", "0")
    assert Settings().cache.model_dump() == {**Settings.model_fields["cache"].default.model_dump(), "score_ttl_s": 0}


def test_a_misspelt_variable_is_pointed_out_with_the_nearest_one() -> None:
    names = ["RANKRAG_CHEKPOINT", "RANKRAG_TOP_N", "RANKRAG_VLLM", "RANKRAG_VLLM__URL", "RANKRAG_ZZZ", "PATH"]
    assert unknown_variables(names) == ["RANKRAG_CHEKPOINT (did you mean RANKRAG_CHECKPOINT?)", "RANKRAG_ZZZ"]


def test_every_mistake_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKRAG_TOP_N", "0")
    monkeypatch.setenv("RANKRAG_PORT", "http")
    monkeypatch.setenv("RANKRAG_REQUEST_TIMEOUT_S", "-1")
    monkeypatch.setenv("RANKRAG_VLLM__URL", "gpu:9000")
    monkeypatch.setenv("RANKRAG_VLLM__MAX_CONECTIONS", "3")
    monkeypatch.setenv("RANKRAG_INDEX__DEVICE", "tpu")
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert {".".join(map(str, error["loc"])) for error in caught.value.errors()} == {
        "top_n", "port", "request_timeout_s", "vllm.url", "vllm.max_conections", "index.device",
    }  # fmt: skip


TRACES = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
ALL = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({}, None),
        ({"RANKRAG_TRACING__ENDPOINT": "http://collector:4318"}, "http://collector:4318/v1/traces"),
        ({ALL: "http://other:4318/"}, "http://other:4318/v1/traces"),
        ({TRACES: "http://exact:4318/in"}, "http://exact:4318/in"),
        ({ALL: "http://other:4318", TRACES: "http://exact:4318/in"}, "http://exact:4318/in"),
        ({"RANKRAG_TRACING__ENDPOINT": "http://a:1", TRACES: "http://exact:4318/in"}, "http://a:1/v1/traces"),
        ({"RANKRAG_TRACING__ENDPOINT": "http://a:1", "OTEL_SDK_DISABLED": "true"}, None),
    ],
)
def test_spans_go_where_either_kind_of_variable_says(
    variables: dict[str, str], url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (ALL, TRACES, "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Settings().tracing.url == url


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RANKRAG_TRACING__ENDPOINT", "collector:4318"), ("RANKRAG_TRACING__SAMPLE_RATIO", "1.5"),
        ("RANKRAG_LOG__FORMAT", "xml"),
    ],
)  # fmt: skip
def test_wrong_setting_of_traces_or_logs_is_named(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert [error["loc"] for error in caught.value.errors()] == [
        tuple(variable.removeprefix("RANKRAG_").lower().split("__"))
    ]


def test_what_is_right_is_kept_beside_the_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "TOP_N": "0", "TOP_K": "7", "VLLM__URL": "gpu:9000", "VLLM__MAX_CONECTIONS": "3", "VLLM__API_KEY": "x",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"RANKRAG_{name}", value)
    settings, mistakes = read_settings()
    assert {mistake.field for mistake in mistakes} == {"top_n", "vllm.url", "vllm.max_conections"}
    assert {variable_of(mistake.field) for mistake in mistakes} == {
        "RANKRAG_TOP_N", "RANKRAG_VLLM__URL", "RANKRAG_VLLM__MAX_CONECTIONS",
    }  # fmt: skip
    assert (settings.top_n, settings.top_k, settings.vllm.url) == (20, 7, "http://127.0.0.1:8000/")
    assert settings.vllm.api_key is not None


def test_settings_without_mistakes_are_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKRAG_TOP_K", "7")
    settings, mistakes = read_settings()
    assert (settings, mistakes) == (Settings(), [])


@pytest.mark.parametrize("rates", ["100/minute", "100 per minute", "600/minute;20/second", "5/2minutes"])
def test_rates_are_those_of_limits(rates: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKRAG_RATE_LIMIT__REQUESTS", rates)
    assert Settings().rate_limit.requests == rates


@pytest.mark.parametrize("rates", ["often", "100", "100/minute;often", "100/minute; ", ""])
def test_what_is_no_rate_is_named(rates: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKRAG_RATE_LIMIT__REQUESTS", rates)
    with pytest.raises(ValidationError, match="is no rate"):
        Settings()


@pytest.mark.parametrize("origins", ["https://a.example/path", "a.example", "https://a.example,", "null", "file://a"])
def test_what_is_no_origin_is_named(origins: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKRAG_CORS_ORIGINS", origins)
    with pytest.raises(ValidationError, match="is no origin"):
        Settings()


def test_a_file_sets_what_no_variable_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rankrag.yaml"
    file.write_text("top_n: 50\ntop_k: 7\ncache: {score_ttl_s: 1, answer_ttl_s: 2}\n")
    monkeypatch.setenv("RANKRAG_CONFIG_FILE", str(file))
    monkeypatch.setenv("RANKRAG_TOP_K", "3")
    monkeypatch.setenv("RANKRAG_CACHE__ANSWER_TTL_S", "4")
    settings = Settings()
    assert (settings.top_n, settings.top_k) == (50, 3)
    assert (settings.cache.score_ttl_s, settings.cache.answer_ttl_s, settings.cache.embedding_ttl_s) == (1, 4, 86400)


def test_secrets_are_read_from_files_and_go_before_the_settings_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rankrag_vllm__api_key").write_text("swordfish\n")
    (tmp_path / "rankrag_redis_url").write_text("redis://:word@redis:6379/0\n")
    (tmp_path / "somebody_elses").write_text("x")
    file = tmp_path / "rankrag.yaml"
    file.write_text("redis_url: redis://other:6379/0\nvllm: {max_connections: 3}\n")
    monkeypatch.setenv("RANKRAG_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("RANKRAG_CONFIG_FILE", str(file))
    settings = Settings()
    assert settings.vllm.api_key is not None
    assert (settings.vllm.api_key.get_secret_value(), settings.vllm.max_connections) == ("swordfish", 3)
    assert str(settings.redis_url) == "redis://:word@redis:6379/0"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("top_m: 3\ntop_n: 3\n", "no such setting in .*: top_m$"),
        ("- top_n\n", "no mapping of settings"),
        ("top_n: [\n", "no mapping of settings"),
        ("just words\n", "no mapping of settings"),
    ],
)
def test_a_file_that_is_none_of_settings_is_refused(
    text: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rankrag.yaml"
    file.write_text(text)
    monkeypatch.setenv("RANKRAG_CONFIG_FILE", str(file))
    with pytest.raises(SettingsError, match=f"RANKRAG_CONFIG_FILE: .*{told}"):
        Settings()


@pytest.mark.parametrize("variable", ["RANKRAG_CONFIG_FILE", "RANKRAG_SECRETS_DIR"])
def test_a_source_that_is_not_there_is_refused(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "/nowhere")
    with pytest.raises(SettingsError, match="/nowhere"):
        Settings()


def test_a_wrong_value_in_the_file_is_reported_like_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rankrag.yaml"
    file.write_text("top_n: 0\nvllm: {max_conections: 3}\n")
    monkeypatch.setenv("RANKRAG_CONFIG_FILE", str(file))
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert {error["loc"] for error in caught.value.errors()} == {("top_n",), ("vllm", "max_conections")}


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValidationError):
        Settings().top_n = 5  # type: ignore[misc]


def test_key_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKRAG_VLLM__API_KEY", "swordfish")
    assert "swordfish" not in repr(Settings())


def test_table_has_every_variable_with_its_meaning() -> None:
    rows = re.findall(r"^\| `(RANKRAG_\w+)` \| (.*?) \| (.+) \|$", describe_settings(), re.MULTILINE)
    sections = [field for field in Settings.model_fields.values() if isinstance(field.default, BaseModel)]
    num_fields = len(Settings.model_fields) - len(sections) + sum(len(type(s.default).model_fields) for s in sections)
    assert len(rows) == num_fields + len(SOURCES)
    assert ("RANKRAG_TOP_N", "`20`") in {(name, default) for name, default, _ in rows}
    assert all(meaning not in ("", "None") for _, _, meaning in rows)


def test_every_variable_of_the_table_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in re.findall(r"`(RANKRAG_\w+)`", describe_settings()):
        with monkeypatch.context() as environment:
            environment.setenv(variable, "\x01")
            try:
                dumped = repr(Settings().model_dump())
            except (ValidationError, SettingsError) as exc:
                dumped = repr(str(exc))
        assert "\\x01" in dumped or "SecretStr" in dumped, variable


def test_readme_has_the_same_table() -> None:
    found = re.search(r"<!-- settings -->\s*(.*?)\s*<!-- /settings -->", README.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    assert found[1] == describe_settings().strip()
