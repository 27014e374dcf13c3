"""Settings of the queue-proxy."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from model_server.config.addresses import HostName, ServiceUrl, split_url
from model_server.config.groups import (
    LEAST_RATE,
    MIB,
    MODEL_NAME_PATTERN,
    AccessSettings,
    DatabaseSettings,
    ServiceSettings,
)

QUEUE = re.compile(r"postgres:|amqps?://[^/\s]+(/\S*)?")
SINK = re.compile(r"(https?|kafka|amqps?)://[^/\s]+(/\S*)?")


class WeightedPredictor(BaseModel):
    """One of several predictors: ``weight`` to the sum of all is its share of the callers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: ServiceUrl
    weight: int = Field(ge=1, le=1000)


class QueueProxySettings(ServiceSettings, DatabaseSettings, AccessSettings):
    """The queue-proxy: where the predictor and the database are, how much waits where and for how long."""

    predictor_url: ServiceUrl = Field(
        "http://127.0.0.1:8080",
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
    max_reply_bytes: int = Field(
        32 * MIB,
        ge=1024,
        description="Largest reply of a predictor, bytes; a larger one is 502. 32 MiB hold all scores of 64 images in "
        "20,000 classes.",
    )
    default_model: str | None = Field(
        None,
        pattern=MODEL_NAME_PATTERN,
        description="Model of the drop-in routes that name none. Unset: the predictor's first.",
    )
    feedback_url: ServiceUrl = Field(
        "http://127.0.0.1:8001",
        description="Where the feedback service is: `/login`, `/user…` and `/feedback…` are passed to it.",
    )
    requests_per_second: float = Field(
        0,
        ge=0,
        le=100_000,
        description="Predictions that one caller, a user or else an address, may ask for, in the long run; more are "
        "refused with 429. 0: no limit, else 0.001 or more. An administrator may give a user another.",
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
    callback_hosts: tuple[HostName, ...] = Field(
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

    @field_validator("requests_per_second")
    @classmethod
    def _rate(cls, value: float) -> float:
        if 0 < value < LEAST_RATE:
            raise ValueError(f"0, or {LEAST_RATE} and more")
        return value

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
        if value and value.get_secret_value().startswith("http"):
            split_url(value.get_secret_value())
        return value
