"""Settings: one class a role, read once by the command line from ``MODEL_SERVER_…`` variables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings import SettingsError as UnreadableSetting

from model_server.errors import SettingsError

ENV_PREFIX = "MODEL_SERVER_"
MIB = 1024 * 1024
URL_PATTERN = r"^https?://[^/\s]+(/[^\s?#]*)?$"

RuntimeName = Literal["litert", "openvino", "tensorflow"]
QUEUE = re.compile(r"postgres:|amqps?://[^/\s]+(/\S*)?")
SINK = re.compile(r"(https?|kafka|amqps?)://[^/\s]+(/\S*)?")
InputDtype = Literal["float32", "uint8", "int8"]


class LogSettings(BaseSettings):
    """What every role writes to its log."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, frozen=True, protected_namespaces=()
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severity that is written. `info` has one line a request."
    )
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="`json`, `text`, or `auto`: text on a terminal, JSON elsewhere."
    )


class ServiceSettings(LogSettings):
    """What every service that takes images limits."""

    retry_after_seconds: int = Field(1, ge=1, description="`Retry-After` of a 503, in seconds.")
    max_body_bytes: int = Field(
        16 * MIB, ge=1024, description="Largest request body, bytes. 16 MiB holds a 12 MiB image as base64."
    )
    max_buffered_bytes: int = Field(
        256 * MIB,
        ge=1024,
        description="Most bytes of request bodies held at once, all requests together; more are refused with 503. "
        "256 MiB are 16 of the largest bodies.",
    )
    max_image_bytes: int = Field(
        12 * MIB, ge=1024, description="Largest encoded image, bytes: a phone's best JPEG is below 12 MiB."
    )
    max_instances: int = Field(64, ge=1, description="Most images in one request.")
    max_json_values: int = Field(
        1_000_000,
        ge=1000,
        description="Most array elements in a JSON body: parsing more would hold up other requests; send binary.",
    )
    body_timeout_seconds: float = Field(
        30, gt=0, description="A body that takes longer to arrive is refused with 408, seconds."
    )
    shutdown_grace_seconds: int = Field(
        30,
        ge=0,
        description="Time to finish after SIGTERM, seconds; less than the pod's `terminationGracePeriodSeconds`.",
    )


class PredictorSettings(ServiceSettings):
    """The predictor: which model, which ports, how much of everything a stranger may ask for."""

    model_dir: Path | None = Field(
        None,
        description="Model bundle, or a folder with a plain model and `labels.txt`. Unset: the model in the package.",
    )
    model_name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Name in the URL. Unset: the bundle's own.",
    )
    runtime: Literal["auto", RuntimeName] = Field(
        "auto",
        description="`litert`, `openvino`, `tensorflow`, or `auto`: what the bundle was measured with.",
    )
    predictor_host: str = Field("0.0.0.0", description="Address to listen on, HTTP and gRPC. A pod needs all of them.")  # noqa: S104
    predictor_port: int = Field(8080, ge=0, le=65535, description="HTTP port; KServe expects 8080.")
    predictor_grpc_port: int = Field(8081, ge=0, le=65535, description="gRPC port; 0 turns gRPC off.")
    workers: int = Field(
        0,
        ge=0,
        le=1024,
        description="Images that are decoded and inferred at once. 0: one for each core this process may use.",
    )
    worker_kind: Literal["auto", "process", "thread"] = Field(
        "auto",
        description="Where that is done. Processes do not wait for one another's interpreter; threads take less "
        "memory. `auto`: threads for one worker and for `tensorflow`, else processes.",
    )
    max_batch: int = Field(
        8,
        ge=1,
        le=1024,
        description="Most images in one inference, `tensorflow` only: on CPU the others gain nothing from batches.",
    )
    queue_size: int = Field(
        256,
        ge=1,
        description="Images waiting for a worker; more are refused with 503. 256 are about half a second of work.",
    )
    max_image_pixels: int = Field(
        50_000_000,
        ge=1,
        description="Most pixels of an image, read from its header before decoding, for which 50 million take 400 MB.",
    )


class WeightedPredictor(BaseModel):
    """One of several predictors: ``weight`` to the sum of all is its share of the callers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(pattern=URL_PATTERN)
    weight: int = Field(ge=1, le=1000)


class DatabaseSettings(LogSettings):
    """Where the database is, and how much of it one process takes."""

    database_url: SecretStr | None = Field(
        None,
        description="PostgreSQL, as `postgresql://user:password@host:5432/name`. Required; shared by all replicas.",
    )
    database_connections: int = Field(
        10, ge=2, le=1000, description="Most connections of one process, besides one that listens for notifications."
    )
    image_store: str = Field(
        "postgres:",
        pattern=r"^(postgres:|s3://[^/\s]+(/\S*)?|file:///\S+)$",
        description="Where images are kept: `postgres:`, `s3://bucket/prefix` with the usual AWS variables, or "
        "`file:///folder`, which all replicas share.",
    )


class AccessSettings(LogSettings):
    """Who may do what: the same for every service behind one address."""

    mode: Literal["open", "accounts"] = Field(
        "open",
        description="`accounts`: predictions and feedback need a token or API key. `open`: they work without as well.",
    )
    token_secret: SecretStr | None = Field(
        None,
        min_length=32,
        description="Key that signs tokens, 32 characters or more. Unset: one is made, and kept in the database.",
    )
    token_seconds: int = Field(1800, ge=1, description="A token is good for so long after the login, seconds.")
    account_cache_seconds: float = Field(
        5,
        ge=0,
        description="Accounts and API keys are read again after this, seconds: so long a removed one may still pass.",
    )


class QueueProxySettings(ServiceSettings, DatabaseSettings, AccessSettings):
    """The queue-proxy: where the predictor and the database are, how much waits where and for how long."""

    predictor_url: str = Field(
        "http://127.0.0.1:8080",
        pattern=URL_PATTERN,
        description="Where predictions are made, without the `/v1/models/…` part.",
    )
    predictors: tuple[WeightedPredictor, ...] = Field(
        (),
        description='Several predictors instead, such as a model and its canary, as JSON: `[{"url": "http://a", '
        '"weight": 90}, …]`. A caller stays with one; while one is away, the heaviest does its work.',
    )
    predictors_file: Path | None = Field(
        None,
        description="File with that JSON instead, looked at four times a second: predictors come and go, and weights "
        "change, without a restart and without a lost request.",
    )
    model_name: str | None = Field(
        None, description="What `GET /v1/models` tells while the predictor is away, as one that sleeps is."
    )
    predictor_timeout_seconds: float = Field(
        60, gt=0, description="An attempt that takes longer counts as failed, seconds; above the slowest prediction."
    )
    default_model: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Model of the drop-in routes that name none. Unset: the predictor's first.",
    )
    feedback_url: str = Field(
        "http://127.0.0.1:8001",
        pattern=r"^https?://[^/\s]+(/[^\s?#]*)?$",
        description="Where the feedback service is: `/login`, `/user…` and `/feedback…` are passed to it.",
    )
    requests_per_second: float = Field(
        0,
        ge=0,
        le=100_000,
        description="Predictions that one caller, a user or else an address, may ask for, in the long run; more are "
        "refused with 429. 0: no limit. An administrator may give a user another.",
    )
    requests_burst: int = Field(
        20, ge=1, le=100_000, description="Predictions that one caller may ask for at once within that rate."
    )
    images_per_day: int = Field(
        0, ge=0, description="Images that one caller may have classified in 24 hours from the first. 0: no limit."
    )
    limits_url: str = Field(
        "memory://",
        pattern=r"^(memory://|rediss?://\S+|redis\+unix://\S+)$",
        description="Where that is counted: `memory://`, in each process by itself, or `redis://host:6379` for all "
        "replicas together.",
    )
    trusted_proxies: int = Field(
        0,
        ge=0,
        le=16,
        description="Proxies in front that append to `X-Forwarded-For`, such as an ingress. The caller is who the "
        "first of them saw; a number above theirs lets callers invent their address, which logins are limited by.",
    )
    queue_proxy_host: str = Field("0.0.0.0", description="Address to listen on. A pod needs all of them.")  # noqa: S104
    queue_proxy_port: int = Field(8000, ge=0, le=65535, description="HTTP port of page and API.")
    sync_in_flight: int = Field(
        64, ge=1, description="Synchronous requests at the predictor at once; it works on a few and queues the others."
    )
    sync_waiting: int = Field(
        256, ge=0, description="Synchronous requests that wait for their turn; more are refused with 503."
    )
    queue: SecretStr | None = Field(
        None,
        description="Where queued predictions wait: RabbitMQ, as `amqp://user:password@host/vhost`, or `postgres:`. "
        "Unset: the latter, in the database, which is the record with either.",
    )
    queue_name: str = Field(
        "predictions",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$",
        description="Name of the quorum queue in RabbitMQ, one for each database.",
    )
    dispatch_concurrency: int = Field(
        32, ge=1, le=1000, description="Queued predictions at the predictor at once, for each process that dispatches."
    )
    dispatch_poll_seconds: float = Field(
        5, gt=0, description="How often the queue is looked at without a notification, seconds: a net, not the way."
    )
    dispatch_lease_seconds: float = Field(
        30, ge=1, description="A job whose worker gave no sign of life for so long is given to another, seconds."
    )
    retry_first_seconds: float = Field(
        0.5, gt=0, description="Wait before the second attempt, seconds; it doubles each time, give or take half."
    )
    retry_most_seconds: float = Field(60, gt=0, description="Longest wait between two attempts, seconds.")
    deadline_seconds: float = Field(
        3600, gt=0, description="A prediction that is not made so long after its request fails; `Prediction-Deadline`."
    )
    max_deadline_seconds: float = Field(
        86400, gt=0, description="Longest deadline that a request may ask for, seconds."
    )
    wait_most_seconds: float = Field(
        60, ge=0, description="Longest `Prefer: wait=N`, seconds; more is cut to it. Proxies drop idle calls at 60 s."
    )
    cache_seconds: float = Field(
        300, ge=0, description="Results of identical work are reused for so long, seconds. 0: each request is computed."
    )
    cache_bytes: int = Field(
        16 * MIB, ge=0, description="Memory of one process for the predictor's replies that may be reused, bytes."
    )
    retention_seconds: float = Field(
        7 * 86400, gt=0, description="Finished predictions are removed after this, seconds; then they are 410."
    )
    callback_hosts: tuple[str, ...] = Field(
        (),
        description='Hosts that `Callback-Url` may name, as JSON: `["hooks.example.com"]`. Empty: no callbacks. '
        "Only a host that is listed by its address, or as `localhost`, may be private.",
    )
    callback_secret: SecretStr | None = Field(
        None, description="Key that signs callbacks: `whsec_` and base64 (Standard Webhooks). Required for callbacks."
    )
    callback_timeout_seconds: float = Field(
        15, gt=0, description="A receiver that takes longer is tried again, seconds."
    )
    callback_attempts: int = Field(
        12, ge=1, description="Deliveries that are tried; with the waits between them about a day."
    )
    result_sink: SecretStr | None = Field(
        None,
        description="Where every finished queued prediction is sent as a CloudEvent: `http(s)://host/path`, "
        "`kafka://host:9092/topic`, `amqp://user:password@host/exchange`. Unset: nowhere.",
    )

    @field_validator("queue")
    @classmethod
    def _known_queue(cls, value: SecretStr | None) -> SecretStr | None:
        if value and not QUEUE.fullmatch(value.get_secret_value()):
            raise ValueError("`postgres:`, or a URL of amqp or amqps, with a host")
        return value

    @field_validator("result_sink")
    @classmethod
    def _known_sink(cls, value: SecretStr | None) -> SecretStr | None:
        if value and not SINK.fullmatch(value.get_secret_value()):
            raise ValueError("a URL of http, https, kafka, amqp or amqps, with a host")
        return value


class FeedbackSettings(ServiceSettings, DatabaseSettings, AccessSettings):
    """The feedback service: accounts, logins and feedback. It listens beside the queue-proxy, which passes to it."""

    database_connections: int = Field(5, ge=2, le=1000, description="Most connections of one process.")
    feedback_host: str = Field(
        "127.0.0.1", description="Address to listen on: beside the queue-proxy, none but it needs to come here."
    )
    feedback_port: int = Field(8001, ge=0, le=65535, description="HTTP port.")
    registration: Literal["open", "closed"] = Field(
        "open", description="`open`: everybody may make an account. `closed`: an administrator makes them."
    )
    registrations_per_hour: int = Field(
        300, ge=1, description="Accounts that one address may try to make in an hour; more are refused with 429."
    )
    password_min_length: int = Field(8, ge=1, le=128, description="Shortest password, characters.")
    password_max_length: int = Field(
        128, ge=8, le=1024, description="Longest password, characters; hashing more would only cost time."
    )
    password_threads: int = Field(
        2,
        ge=1,
        le=64,
        description="Passwords that are hashed at once. Each takes 19 MiB and, for a moment, a core; the others wait.",
    )
    login_attempts: int = Field(
        10, ge=1, description="Logins to one account from one address in a window; more are refused with 429."
    )
    login_attempts_per_account: int = Field(
        100, ge=1, description="Logins to one account from all addresses in a window."
    )
    login_attempts_per_address: int = Field(
        100, ge=1, description="Logins from one address to all accounts in a window."
    )
    login_window_seconds: int = Field(300, ge=1, description="The window that logins are counted in, seconds.")


class UpSettings(LogSettings):
    """The whole system on one machine: the variables of its services, open to this machine alone."""

    data_dir: Path = Field(
        Path("data"),
        description="Folder that keeps the embedded database between runs, what was rolled out, and the socket for "
        "rollouts; made where it is missing.",
    )
    database_url: SecretStr | None = Field(
        None, description="PostgreSQL to use, as `postgresql://…`. Unset: one is started, with its data in the folder."
    )
    mode: Literal["open", "accounts"] = Field(
        "open", description="`accounts`: predictions and feedback need a token or API key. `open`: they work without."
    )
    queue_proxy_host: str = Field("127.0.0.1", description="Address of page and API; `0.0.0.0` opens them to others.")
    queue_proxy_port: int = Field(8000, ge=1, le=65535, description="HTTP port of page and API.")
    feedback_port: int = Field(8001, ge=1, le=65535, description="HTTP port of the feedback service behind it.")
    predictor_host: str = Field("127.0.0.1", description="Address of the predictor behind it.")
    predictor_port: int = Field(8080, ge=1, le=65535, description="HTTP port of the predictor.")
    predictor_grpc_port: int = Field(8081, ge=0, le=65535, description="gRPC port of the predictor; 0 turns gRPC off.")


ROLES: dict[str, type[BaseSettings]] = {
    "predictor": PredictorSettings,
    "queue-proxy": QueueProxySettings,
    "feedback": FeedbackSettings,
    "up": UpSettings,
}

Settings = TypeVar("Settings", bound=BaseSettings)


def load(role: type[Settings], **overrides: Any) -> Settings:
    """Read one role's settings from the environment; options that are not None win over it.

    Raises SettingsError with one line that names the first wrong variable, and tells its value if that is no secret.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return role(**given)
    except ValidationError as error:
        first = error.errors()[0]
        field = "".join(str(part) for part in first["loc"][:1])
        value = "" if _is_secret(role, field) else f"={first['input']!r}"
        raise SettingsError(f"{ENV_PREFIX}{field.upper()}{value} is not valid: {first['msg']}.") from None
    except UnreadableSetting as error:
        field = str(error).partition('"')[2].partition('"')[0]
        raise SettingsError(f"{ENV_PREFIX}{field.upper()} is not valid JSON.") from None


def _is_secret(role: type[BaseSettings], field: str) -> bool:
    known = role.model_fields.get(field)
    return known is not None and SecretStr in {known.annotation, *get_args(known.annotation)}


def markdown_table(role: type[BaseSettings]) -> str:
    """Return the README's table of one role: variable, default, meaning."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in role.model_fields.items():
        default = "" if field.default is None else f"`{field.default}`"
        rows.append(f"| `{ENV_PREFIX}{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows)
