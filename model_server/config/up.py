"""Settings of the whole system on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from model_server.config.addresses import HostName
from model_server.config.groups import LogSettings


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
    allowed_hosts: tuple[HostName, ...] | None = Field(
        None,
        description='Hosts that a request may be for, as JSON: `["models.example.com"]`; others are refused with 421. '
        "Unset: `localhost`, `127.0.0.1`, `::1` and the address to listen on, so that no page elsewhere reaches this "
        "machine by a name of its own; any, where that is `0.0.0.0` or `::`. `[]`: any.",
    )
    queue_proxy_port: int = Field(8000, ge=1, le=65535, description="HTTP port of page and API.")
    feedback_port: int = Field(8001, ge=1, le=65535, description="HTTP port of the feedback service behind it.")
    predictor_host: str = Field("127.0.0.1", description="Address of the predictor behind it.")
    predictor_port: int = Field(8080, ge=1, le=65535, description="HTTP port of the predictor.")
    predictor_grpc_port: int = Field(8081, ge=0, le=65535, description="gRPC port of the predictor; 0 turns gRPC off.")
