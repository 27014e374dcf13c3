"""Settings of the predictor."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from model_server.config.groups import MIB, MODEL_NAME_PATTERN, ServiceSettings

RuntimeName = Literal["litert", "openvino", "tensorflow"]
InputDtype = Literal["float32", "uint8", "int8"]


class PredictorSettings(ServiceSettings):
    """The predictor: which model, which ports, how much of everything a stranger may ask for."""

    model_dir: Path | None = Field(
        None,
        description="Model bundle, or a folder with a plain model and `labels.txt`. Unset: the model in the package.",
    )
    model_name: str | None = Field(
        None,
        pattern=MODEL_NAME_PATTERN,
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
        description="Processes, each of which decodes and infers one image at a time; for `tensorflow` they decode. "
        "0: one for each core this process may use.",
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
        description="Most pixels of an image, read from its header before decoding.",
    )
    max_image_cpu_seconds: float = Field(
        10,
        gt=0,
        description="Most processor time to decode one image, seconds; more is refused with 400. A phone's picture of "
        "50 million pixels takes 1.",
    )
    max_image_memory_bytes: int = Field(
        512 * MIB,
        ge=16 * MIB,
        description="Most memory to decode one image, bytes; more is refused with 400. A phone's picture of 50 million "
        "pixels takes 150 MiB, a PNG with transparency 400 MiB, a WebP 770 MiB. Each worker may take as much at once.",
    )
