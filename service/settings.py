"""Every setting of the service: the only place that reads the environment.

Variables are `RANKRAG_` plus the field's name in capitals; nested ones join with two underscores
(`RANKRAG_VLLM__URL`). `rankrag settings` prints this table; README.md carries a copy that a test compares.
Two variables say where else to look: `RANKRAG_CONFIG_FILE` and `RANKRAG_SECRETS_DIR`.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from limits import parse_many
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    ModelWrapValidatorHandler,
    RedisDsn,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)
from yaml import YAMLError

PREFIX = "RANKRAG_"
CONFIG_FILE = "RANKRAG_CONFIG_FILE"
SETTINGS_DIR = "RANKRAG_SECRETS_DIR"
SOURCES = {
    CONFIG_FILE: "A YAML file of settings by these names in small letters, sections nested; a variable wins over it.",
    SETTINGS_DIR: "A directory of files named like variables in small letters (`rankrag_redis_url`), each holding its "
    "value; a variable wins over it.",
}
PositiveSeconds = Annotated[float, Field(gt=0)]
PositiveInt = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=0, le=65535)]

# Where commands that ask a running service find the caller's key; no setting of the service.
CLIENT_KEY = "RANKRAG_API_KEY"  # pragma: allowlist secret

# What a browser sends as Origin: scheme and host, no path.
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+")


class Mistake(NamedTuple):
    """A setting by its field (`vllm.url`), and what is wrong with it."""

    field: str
    message: str


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _checked_urls(text: str) -> str:
    """The same URLs, normalised; a mistake names the one that is wrong."""
    return ",".join(_checked_url(part.strip()) for part in text.split(","))


def _checked_url(text: str) -> str:
    try:
        return str(HttpUrl(text))
    except ValidationError as exc:
        raise ValueError(f"{text!r} is no URL of a server: {exc.errors()[0]['msg']}") from exc


def _checked_rates(text: str) -> str:
    """Rates as `limits` reads them, which drops what it can't read. Raises ValueError."""
    with suppress(ValueError):
        if len(parse_many(text)) == len(text.split(";")):
            return text
    raise ValueError(f"{text!r} is no rate: write `100/minute`, or several with `;` between")


def _checked_origins(text: str) -> str:
    """Origins without spaces around them; a mistake names the one that is wrong."""
    origins = [part.strip() for part in text.split(",")]
    for origin in origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin!r} is no origin: write `https://host` without a path, or `*`")
    return ",".join(origins)


Rates = Annotated[str, AfterValidator(_checked_rates)]


class VllmSettings(_Section):
    """The engine: vLLM servers that all serve the one checkpoint, which ranks and answers."""

    url: Annotated[str, AfterValidator(_checked_urls)] = Field(
        "http://127.0.0.1:8000/", description="Base URL of the vLLM server, or of several, separated by commas."
    )
    resolve: bool = Field(
        False,
        description="Resolve the host name to all of its addresses, as of a headless Service, and follow them as "
        "they change.",
    )
    resolve_interval_s: PositiveSeconds = Field(5.0, description="Between two look-ups of the addresses.")
    api_key: SecretStr | None = Field(None, description="Sent as a bearer token, where vLLM has `--api-key`.")
    priority_scheduling: bool = Field(
        False,
        description="vLLM runs with `--scheduling-policy priority`: the service's order is passed on, so that a "
        "large window costs urgent requests no time.",
    )
    window_tokens: PositiveInt = Field(
        16384,
        description="Prompt tokens outstanding per vLLM, a quarter of them kept for newcomers; twice its "
        "`--max-num-batched-tokens` keeps it busy.",
    )
    max_queued_tokens: PositiveInt = Field(
        2_000_000,
        description="Prompt tokens that may wait for scoring, of all requests; beyond it, or where a request could not "
        "be done in its time, it gets a 429.",
    )
    max_connections: PositiveInt = Field(32, description="Open connections to one vLLM, and calls in flight there.")
    max_prompts_per_call: PositiveInt = Field(32, description="Pairs in one scoring call.")
    max_tokens_per_call: PositiveInt = Field(
        8192, description="Prompt tokens in one scoring call; a longer single pair goes alone."
    )
    connect_timeout_s: PositiveSeconds = Field(1.0, description="Time to open a connection.")
    keepalive_s: PositiveSeconds = Field(
        4.0, description="Idle connections are closed after this; keep it below vLLM's own 5 s."
    )
    health_interval_s: PositiveSeconds = Field(
        2.0, description="Between two canary scores, by which the service knows that the engine works."
    )
    health_timeout_s: PositiveSeconds = Field(5.0, description="A canary score slower than this means: down.")

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(self.url.split(","))

    @field_validator("resolve")
    @classmethod
    def _is_resolvable(cls, resolve: bool, info: ValidationInfo) -> bool:
        if resolve and "https:" in info.data.get("url", ""):
            raise ValueError("a certificate names the host, not its addresses: only http URLs can be resolved")
        return resolve


class IndexSettings(_Section):
    """The passages that questions are answered from."""

    path: Path | None = Field(
        None, description="Directory written by `rankrag index build`. Without one /answer needs `passages`."
    )
    device: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="Where FAISS searches: a GPU if faiss-gpu and a device are there, the CPU, or as said."
    )
    encoder_device: str | None = Field(None, description="Torch device of the query encoder, e.g. `cuda:0`.")
    verify: bool = Field(
        True, description="Compare the files with the digests in the manifest at start: about a second a GB."
    )


class GateSettings(_Section):
    """Whether the checkpoint has to show that it ranks better than the retriever before it may rerank."""

    probe: Path | None = Field(
        None,
        description="Judged questions (JSONL, see `rankrag eval gate --help`), ranked in the background at start. "
        "Reranking is off until they are, and stays off if R@5 falls by it. Unset: no gate.",
    )
    override: bool = Field(False, description="Rerank whatever the gate says; `/readyz` and the log go on saying it.")


class CacheSettings(_Section):
    """What is remembered, and for how long. 0 turns one kind off."""

    answer_ttl_s: Annotated[int, Field(ge=0)] = Field(3600, description="Whole answers.")
    score_ttl_s: Annotated[int, Field(ge=0)] = Field(86400, description="Scores of (question, passage) pairs.")
    embedding_ttl_s: Annotated[int, Field(ge=0)] = Field(86400, description="Question embeddings.")
    max_entries: PositiveInt = Field(
        200_000, description="Bound of the in-process cache, which is asked before Redis or instead of it."
    )
    patience_s: PositiveSeconds = Field(
        0.005,
        description="A request waits this long for Redis, then goes on without; what comes later is kept in the "
        "process.",
    )
    timeout_s: PositiveSeconds = Field(
        0.25, description="A Redis call slower than this means: down. No request waits for it."
    )
    retry_after_s: PositiveSeconds = Field(
        5.0, description="After a failure Redis is left alone for this long, so that it costs time once."
    )


class LogSettings(_Section):
    """How the service logs; from which level is `log_level`."""

    format: Literal["auto", "json", "text"] = Field(
        "auto", description="One JSON object a line, or text for people: `auto` is text on a terminal, else JSON."
    )
    text: bool = Field(False, description="Log questions, answers and passages, too. They may be confidential.")


class TracingSettings(_Section):
    """Spans of requests, their stages and the calls to vLLM."""

    endpoint: Annotated[str, AfterValidator(_checked_url)] | None = Field(
        None,
        description="OTLP/HTTP collector that spans go to, e.g. `http://collector:4318`. Unset: none are made, unless "
        "OpenTelemetry's own `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` is set.",
    )
    sample_ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        1.0, description="Of the requests that come without a `traceparent`, the part that is traced."
    )

    @property
    def url(self) -> str | None:
        """Where spans are posted to; None where none are made."""
        if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
            return None
        base = self.endpoint or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
        exact = None if self.endpoint else os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        return exact or (f"{base.rstrip('/')}/v1/traces" if base else None)


class LimitSettings(_Section):
    """What a request may ask for; beyond it the answer is a 422 or 413 naming the field and the limit."""

    max_question_chars: PositiveInt = Field(4_000, description="Characters in `question` or `query`.")
    max_messages_chars: PositiveInt = Field(40_000, description="Characters in all `messages` of a conversation.")
    max_document_chars: PositiveInt = Field(
        100_000, description="Characters in one document of /rerank, or in one of /answer's `passages`."
    )
    max_documents: PositiveInt = Field(1_000, description="Documents in one /rerank.")
    max_chunks: PositiveInt = Field(
        4_000, description="Chunks that the documents of one /rerank make with `long_documents: max_chunk`."
    )
    max_body_bytes: PositiveInt = Field(8 * 1024 * 1024, description="Bytes of a request body.")
    max_top_n: PositiveInt = Field(200, description="Passages retrieved, or given, for one question.")
    max_top_k: PositiveInt = Field(20, description="Passages kept for one answer.")
    max_answer_tokens: PositiveInt = Field(512, description="Tokens of one answer.")
    max_filters: PositiveInt = Field(16, description="Conditions in `filters`.")
    max_filter_depth: PositiveInt = Field(8, description="Levels of `and`, `or` and `not` in `filters`.")
    max_deadline_ms: PositiveInt = Field(60_000, description="Milliseconds in `deadline_ms` or `X-Deadline-Ms`.")
    max_header_bytes: PositiveInt = Field(16_384, description="Bytes of a request's target and headers together.")
    max_headers: PositiveInt = Field(100, description="Headers of a request.")
    head_timeout_s: PositiveSeconds = Field(
        10.0, description="A connection whose request's headers aren't complete by then is closed."
    )
    idle_timeout_s: PositiveInt = Field(
        75,
        description="Seconds after which a kept connection without a request is closed: more than those of a load "
        "balancer in front, which would else send requests into closed connections.",
    )
    body_timeout_s: PositiveSeconds = Field(30.0, description="A body that isn't complete by then is a 408.")


class AuthSettings(_Section):
    """Who may ask."""

    mode: Literal["keys", "off"] = Field(
        "keys", description="`keys`: callers need an API key. `off`: anybody who can reach the port may ask anything."
    )
    key_file: Path | None = Field(
        None,
        description="The API keys' entries, as `rankrag keys new` prints them; read again when it changes. With "
        "`keys` the service doesn't start without.",
    )
    reload_interval_s: PositiveSeconds = Field(2.0, description="Between two looks at the key file.")


class RateLimitSettings(_Section):
    """How often one caller may ask. A caller is a key or, with `auth.mode` off, a client address."""

    requests: Rates | None = Field(
        None,
        description="Of one caller, e.g. `600/minute;20/second`; a key's own `rate_limit` goes before it. Unset: any.",
    )
    timeout_s: PositiveSeconds = Field(
        0.05, description="Where Redis takes longer to count, each process counts by itself for a while."
    )


class AdminSettings(_Section):
    """The port for probes and metrics, which asks for no key: keep it inside the cluster."""

    host: str = Field("127.0.0.1", description="Address of `/metrics`, `/livez` and `/readyz` for the platform.")
    port: Port = Field(
        8081,
        description="Its port; no key is asked for there. 0: none, and `/metrics` is on the main port (scope `admin`).",
    )


class TlsSettings(_Section):
    """HTTPS on the main port."""

    cert_file: Path | None = Field(None, description="Certificate chain (PEM). Set: the main port speaks HTTPS.")
    key_file: Path | None = Field(None, description="Its private key (PEM).")
    key_password_file: Path | None = Field(None, description="A file that holds the private key's password.")
    client_ca_file: Path | None = Field(
        None, description="Only clients with a certificate by this authority may connect."
    )


class ShutdownSettings(_Section):
    """What happens between SIGTERM and the end."""

    delay_s: Annotated[float, Field(ge=0)] = Field(
        5.0, description="After SIGTERM `/readyz` is red, and requests are taken for so long: until balancers know."
    )
    grace_s: PositiveInt = Field(15, description="Then what is in flight has so long to finish.")


class Settings(BaseSettings):
    """All settings, checked at start: every mistake is reported at once."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="ignore", frozen=True)

    checkpoint: str = Field(
        "models/demo",
        description="The served checkpoint: a directory, or a Hugging Face id. The one setting to change.",
    )
    checkpoint_revision: str | None = Field(None, description="Revision of a Hugging Face id.")
    prompts: str = Field("rankrag-v1", description="A prompt set in service/prompts, or a path to a YAML file.")
    redis_url: RedisDsn | None = Field(None, description="Cache in this Redis, too; in the process alone when unset.")

    top_n: PositiveInt = Field(20, description="Passages retrieved and scored, where the request doesn't say.")
    top_k: PositiveInt = Field(5, description="Passages kept for the answer, where the request doesn't say.")
    min_relevance: Annotated[float, Field(ge=0, le=1)] = Field(
        0.05,
        description="Kept passages that score less stay out of the answer's prompt, unless all do. 0: all are in.",
    )
    max_tokens: PositiveInt = Field(32, description="Tokens of an answer, where the request doesn't say.")
    early_exit: Literal["off", "on", "aggressive"] = Field(
        "off",
        description="Score in waves and stop when those to keep are settled: `on` about halves the work, `aggressive` "
        "saves more. Measure your checkpoint first (loadtest/README.md).",
    )
    request_timeout_s: PositiveSeconds = Field(
        9.0, description="Time of a request that doesn't say; then it gets a 504."
    )

    keep_alive_s: PositiveSeconds = Field(10.0, description="A stream that is silent for so long sends a comment line.")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: Port = Field(8080, description="Port to listen on.")
    workers: PositiveInt = Field(
        1,
        description="Processes on the port, each with its own queue, index and memory, and an admin port of its own: "
        "`admin.port`, the next one, and so on (without them `/metrics` is that of any). Replicas are better where "
        "something looks after them.",
    )
    trusted_proxies: str = Field(
        "127.0.0.1", description="Addresses or networks, separated by commas, whose `X-Forwarded-For` is believed."
    )
    cors_origins: Annotated[str, AfterValidator(_checked_origins)] | None = Field(
        None, description="Origins of web pages, separated by commas, that browsers may let ask. Unset: none."
    )
    playground: bool = Field(
        True, description="Serve a page at `/` that asks questions. It holds no secret; what it asks needs a key."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level logged.")

    vllm: VllmSettings = VllmSettings()
    index: IndexSettings = IndexSettings()
    gate: GateSettings = GateSettings()
    cache: CacheSettings = CacheSettings()
    limits: LimitSettings = LimitSettings()
    log: LogSettings = LogSettings()
    tracing: TracingSettings = TracingSettings()
    auth: AuthSettings = AuthSettings()
    rate_limit: RateLimitSettings = RateLimitSettings()
    admin: AdminSettings = AdminSettings()
    tls: TlsSettings = TlsSettings()
    shutdown: ShutdownSettings = ShutdownSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - there is none
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then variables, then secret files, then the YAML file: the first that says something wins."""
        sources = [init_settings, env_settings]
        if directory := os.environ.get(SETTINGS_DIR):
            secrets = NestedSecretsSettingsSource(file_secret_settings, directory, secrets_dir_missing="error")
            sources.append(secrets)
        if path := os.environ.get(CONFIG_FILE):
            sources.append(_config_file(settings_cls, Path(path)))
        return tuple(sources)


def _config_file(settings_cls: type[BaseSettings], path: Path) -> YamlConfigSettingsSource:
    """The file as a source of settings.

    Raises:
        SettingsError: it is not there, or no mapping, or has a key that is no setting.
    """
    if not path.is_file():
        raise SettingsError(f"{CONFIG_FILE}: {path} is no file")
    try:
        source = YamlConfigSettingsSource(settings_cls, yaml_file=path)
    except (YAMLError, ValueError, TypeError) as exc:
        raise SettingsError(f"{CONFIG_FILE}: {path} is no mapping of settings: {exc}") from exc
    if unknown := sorted(str(key) for key in source.yaml_data.keys() - settings_cls.model_fields.keys()):
        raise SettingsError(f"{CONFIG_FILE}: no such setting in {path}: {', '.join(unknown)}")
    return source


class _WithoutMistakes(Settings):
    """What is right in the settings, with defaults for the rest."""

    @model_validator(mode="wrap")
    @classmethod
    def _prune(cls, data: Any, handler: ModelWrapValidatorHandler["_WithoutMistakes"]) -> "_WithoutMistakes":
        try:
            return handler(data)
        except ValidationError as exc:
            for error in exc.errors():
                _remove(data, [str(part) for part in error["loc"][:2]])
            return handler(data)


def _remove(data: Any, path: list[str]) -> None:
    """The value at `path`, or the section that isn't one."""
    section = data.get(path[0])
    if len(path) == 2 and isinstance(section, dict):
        section.pop(path[1], None)
    else:
        data.pop(path[0], None)


def read_settings() -> tuple[Settings, list[Mistake]]:
    """The settings and what is wrong in them; those that are wrong have their defaults."""
    try:
        return Settings(), []
    except ValidationError as exc:
        mistakes = [Mistake(".".join(map(str, error["loc"])), error["msg"]) for error in exc.errors()]
        return _WithoutMistakes(), mistakes


def client_headers() -> dict[str, str]:
    """What a command sends to a running service: the caller's key, if it has one."""
    key = os.environ.get(CLIENT_KEY)
    return {"Authorization": f"Bearer {key}"} if key else {}


def variable_of(field: str) -> str:
    """`vllm.url` is set by `RANKRAG_VLLM__URL`."""
    return PREFIX + field.replace(".", "__").upper()


def describe_settings() -> str:
    """Every variable with its default and meaning, as a Markdown table."""
    rows = [
        f"| `{name}` | {_shown(info.default)} | {info.description} |" for name, info in _variables(Settings, PREFIX)
    ]
    rows += [f"| `{name}` |  | {text} |" for name, text in SOURCES.items()]
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows]) + "\n"


def unknown_variables(environment: Iterable[str]) -> list[str]:
    """Variables that look like settings and are none, each with the nearest one there is.

    Not an error: Kubernetes sets such names for a Service called rankrag.
    """
    known = [CLIENT_KEY, *SOURCES, *(name for name, _ in _variables(Settings, PREFIX))]
    sections = {name.rpartition("__")[0] for name in known}
    unknown = sorted(name for name in environment if name.startswith(PREFIX) and name not in sections.union(known))
    return [
        name + "".join(f" (did you mean {near}?)" for near in get_close_matches(name, known, 1, cutoff=0.85))
        for name in unknown
    ]


def _variables(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, info in section.model_fields.items():
        variable = prefix + name.upper()
        if isinstance(info.default, _Section):
            yield from _variables(type(info.default), f"{variable}__")
        else:
            yield variable, info


def _shown(default: object) -> str:
    return "" if default is None else f"`{default}`"
