"""What the load consists of: environment variables STRESS_…, for Locust's processes and the commands alike."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from model_server.classifier import DEFAULT_MODEL

ShapeName = Literal["steps", "spike", "ramp", "soak"]


class StressSettings(BaseSettings):
    """A weight is a user class's share of the users; 0 leaves it out."""

    model_config = SettingsConfigDict(env_prefix="STRESS_", extra="ignore")

    pictures: Path = Field(
        DEFAULT_MODEL,
        description="Folder with pictures and `labels.tsv` (file, tab, each class that is right), or a model bundle: "
        "its golden pictures. They must fit the model that is served.",
    )
    unlike: bool = Field(True, description="Each request's picture differs, so that none is answered from a cache.")
    model: str | None = Field(None, description="Name in the URL. Unset: the server's first.")
    grpc: str | None = Field(None, description="host:port of the predictor's gRPC. Unset: no gRPC users.")
    token: str | None = Field(None, description="Token or API key that each request carries.")
    pause_seconds: float = Field(0, ge=0, description="What a program waits after a reply, seconds.")
    person_seconds: float = Field(1, ge=0, description="What a person waits, on the page and with feedback, seconds.")
    result_seconds: float = Field(60, gt=0, description="A queued prediction that takes longer counts as failed.")
    page_weight: int = Field(1, ge=0)
    v1_base64_weight: int = Field(2, ge=0)
    v1_raw_weight: int = Field(4, ge=0)
    v2_weight: int = Field(2, ge=0)
    grpc_weight: int = Field(1, ge=0)
    async_weight: int = Field(3, ge=0)
    feedback_weight: int = Field(1, ge=0)
    shape: ShapeName | None = Field(None, description="Unset: Locust's own --users, --spawn-rate and --run-time.")
    users: int = Field(8, ge=1, description="Most users of a shape.")
    seconds: float = Field(60, gt=0, description="Length of a shape, seconds.")
    objectives: Path | None = Field(None, description="TOML file with other objectives than those of `slo.py`.")
