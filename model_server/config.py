"""Settings: one class a role, read once by the command line from ``MODEL_SERVER_…`` variables."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from model_server.errors import SettingsError

ENV_PREFIX = "MODEL_SERVER_"
MIB = 1024 * 1024

RuntimeName = Literal["litert", "openvino", "tensorflow"]
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


class PredictorSettings(LogSettings):
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
    threads: int = Field(
        0,
        ge=0,
        le=1024,
        description="Threads that decode and infer. 0: one for each core this process may use.",
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
        description="Images waiting for a thread; more are refused with 503. 256 are about half a second of work.",
    )
    retry_after_seconds: int = Field(1, ge=1, description="`Retry-After` of a 503, in seconds.")
    max_body_bytes: int = Field(
        16 * MIB, ge=1024, description="Largest request body, bytes. 16 MiB holds a 12 MiB image as base64."
    )
    max_image_bytes: int = Field(
        12 * MIB, ge=1024, description="Largest encoded image, bytes: a phone's best JPEG is below 12 MiB."
    )
    max_image_pixels: int = Field(
        50_000_000,
        ge=1,
        description="Most pixels of an image, read from its header before decoding. 50 million take 150 MB.",
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


Settings = TypeVar("Settings", bound=BaseSettings)


def load(role: type[Settings], **overrides: Any) -> Settings:
    """Read one role's settings from the environment; options that are not None win over it.

    Raises SettingsError with one line that names the first wrong variable.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return role(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = f"{ENV_PREFIX}{'_'.join(str(part) for part in first['loc'][:1]).upper()}"
        raise SettingsError(f"{name}={first['input']!r} is not valid: {first['msg']}.") from None


def markdown_table(role: type[BaseSettings]) -> str:
    """Return the README's table of one role: variable, default, meaning."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in role.model_fields.items():
        default = "" if field.default is None else f"`{field.default}`"
        rows.append(f"| `{ENV_PREFIX}{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows)
