"""Settings of the feedback service."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from model_server.config.groups import AccessSettings, DatabaseSettings, ServiceSettings


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
