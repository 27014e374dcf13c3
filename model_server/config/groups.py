"""Groups of settings that several roles have: logging, limits of a service, database, access."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from model_server.config.addresses import HostName

ENV_PREFIX = "MODEL_SERVER_"
MIB = 1024 * 1024
MODEL_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
"""Also of versions: both stand in paths, headers and keys."""
LEAST_RATE = 0.001
"""Requests per second, where they are limited: one in 1,000 s."""


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
    head_timeout_seconds: float = Field(
        10, gt=0, description="A request whose head takes longer to arrive is refused with 408, seconds."
    )
    idle_timeout_seconds: float = Field(
        75,
        gt=0,
        description="A connection without a request is closed after this, seconds; above what load balancers in front "
        "keep one for, often 60 s, so that they close it first.",
    )
    unread_timeout_seconds: float = Field(
        30, gt=0, description="A caller who takes nothing of a reply for so long is cut off, seconds."
    )
    allowed_hosts: tuple[HostName, ...] = Field(
        (),
        description='Hosts that a request may be for, as JSON: `["models.example.com"]`; others are refused with 421. '
        "Empty: any, as behind a proxy. The address that a connection has come to is always one, and so is a name "
        "without a dot.",
    )
    shutdown_grace_seconds: int = Field(
        30,
        ge=0,
        description="Time to finish after SIGTERM, seconds; less than the pod's `terminationGracePeriodSeconds`.",
    )


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
