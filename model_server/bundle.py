"""Model bundles: a folder that says what model it holds, and can prove it.

A bundle is ``model.json``, ``labels.txt``, an artifact (``model.tflite``, ``model.keras`` or ``saved_model/``) and
``golden/`` images with the scores that the exporter measured.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from model_server.config import MODEL_NAME_PATTERN, InputDtype, RuntimeName
from model_server.errors import BundleError, shown
from model_server.printable import printable

MANIFEST = "model.json"
LABELS = "labels.txt"
GOLDEN = "golden"
MIB = 1024 * 1024
MOST_TEXT = 16 * MIB
"""Bytes of the manifest or the labels: a confusion matrix of a thousand classes takes half of it."""
MOST_GOLDEN = 64 * MIB
"""Bytes of a golden image."""
LONGEST_NAME = 128
MOST_LABELS, LONGEST_LABEL = 100_000, 255
NOT_IN_TEXT = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode's categories of control characters, lone surrogates, and separators of lines and paragraphs."""

ARTIFACTS: dict[RuntimeName, tuple[str, ...]] = {
    "litert": ("model.tflite",),
    "openvino": ("model.tflite", "saved_model"),
    "tensorflow": ("model.keras", "saved_model"),
}
"""What each runtime can read, best first."""


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError("must be a path inside the bundle")
    return name


InnerPath = Annotated[str, AfterValidator(_inside)]
PerChannel = tuple[float, float, float]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class InputSpec(_Part):
    """How a picture becomes the model's input: value = pixel (0..255) * scale + offset, per channel.

    ``crop`` takes the largest centred box of the input's aspect, times ``crop_fraction``; ``stretch`` all of it.
    """

    height: int = Field(gt=0, le=8192)
    width: int = Field(gt=0, le=8192)
    dtype: InputDtype = "float32"
    channels: Literal["rgb", "bgr"] = "rgb"
    scale: PerChannel = (1 / 127.5, 1 / 127.5, 1 / 127.5)
    offset: PerChannel = (-1.0, -1.0, -1.0)
    resize: Literal["crop", "stretch"] = "crop"
    crop_fraction: float = Field(0.875, gt=0, le=1)
    filter: Literal["bilinear", "bicubic"] = "bilinear"


class Accuracy(_Part):
    """Share of right answers, 0..1, measured through this project's decoder and the artifact itself."""

    top1: float = Field(ge=0, le=1)
    images: int = Field(gt=0)
    per_class: dict[str, float] = {}
    confusion: list[list[int]] = Field(
        [], description="Row: true class, column: predicted, in the order of the labels."
    )
    before_quantization: float | None = None


class GoldenImage(_Part):
    """An image of ``golden/`` with what the original model said of it."""

    file: InnerPath
    label: str
    index: int
    scores: list[float]


class Manifest(_Part):
    """The content of ``model.json``."""

    format: Literal[1] = 1
    name: str = Field(pattern=MODEL_NAME_PATTERN)
    version: str = Field(pattern=MODEL_NAME_PATTERN)
    task: Literal["image-classification"] = "image-classification"
    labels: InnerPath = LABELS
    input: InputSpec
    artifact: InnerPath
    runtime: RuntimeName
    logits: bool = Field(False, description="The artifact's scores still need a softmax.")
    sha256: dict[InnerPath, str] = {}
    golden: list[GoldenImage] = []
    tolerance: float = Field(1e-3, ge=0, le=1, description="Largest difference of a golden score.")
    accuracy: Accuracy | None = None
    trained_on: str | None = None
    licence: str | None = None
    quantization: Literal["none", "float16", "int8"] = "none"


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk; ``proven`` says whether it came with a manifest."""

    path: Path
    manifest: Manifest
    labels: list[str]
    proven: bool = True

    def artifact_for(self, runtime: RuntimeName) -> Path:
        """Return the file or folder that ``runtime`` can load, the manifest's own if it can."""
        names = ARTIFACTS[runtime]
        for name in (self.manifest.artifact, *names):
            if name in names and (self.path / name).exists():
                return artifact_path(self.path, name)
        raise BundleError(
            f"The bundle {self.path} has nothing that the runtime {runtime} can load; it reads {' or '.join(names)}."
        )


def has_manifest(path: Path) -> bool:
    """Whether a folder is to be read as a bundle with a manifest, be it one that cannot be read."""
    return os.path.lexists(path / MANIFEST)


def read_manifest(path: Path) -> Manifest:
    """Read a bundle's manifest; raises BundleError that says what is wrong."""
    try:
        return Manifest.model_validate_json(read_file(path, MANIFEST, MOST_TEXT))
    except ValidationError as error:
        first = error.errors()[0]
        where = printable(".".join(str(part) for part in first["loc"]))[:LONGEST_NAME]
        raise BundleError(f"{path / MANIFEST}: {where or 'the document'}: {first['msg']}.") from None


def read(path: Path) -> Bundle:
    """Read a bundle that has a manifest and prove its files; raises BundleError that says what is wrong."""
    manifest = read_manifest(path)
    verify_files(path, manifest)
    return Bundle(path, manifest, labels_of(path, manifest.labels))


def plain_version(path: Path, artifact: str) -> str:
    """Return the version of a folder that has an artifact and labels only: the artifact's hash."""
    return hashlib.sha256("".join(hash_files(path, artifact).values()).encode()).hexdigest()[:12]


def read_plain(path: Path, version: str, artifact: str, runtime: RuntimeName, spec: InputSpec) -> Bundle:
    """Describe a folder that has an artifact and labels only."""
    manifest = Manifest(name=plain_name(path), version=version, input=spec, artifact=artifact, runtime=runtime)
    return Bundle(path, manifest, labels_of(path, LABELS), proven=False)


def plain_name(path: Path) -> str:
    """Return the folder's name as a model name, at most 128 characters."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.resolve().name).strip(".-_")[:LONGEST_NAME] or "model"


def find_artifact(path: Path) -> tuple[str, RuntimeName]:
    """Return the artifact of a folder without a manifest, and the runtime it is made for."""
    for runtime, names in ARTIFACTS.items():
        for name in names:
            if (path / name).exists():
                return name, runtime
    raise BundleError(f"{path} is no model: it has no {MANIFEST}, model.tflite, model.keras or saved_model/.")


def read_labels(path: Path) -> list[str]:
    """Return the classes that a file of the caller's own names, one a line.

    Raises BundleError where there are more than 100,000, or one is too long.
    """
    try:
        return _labels(path.read_bytes(), path)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}.") from None


def labels_of(root: Path, name: str) -> list[str]:
    """Return the classes of a bundle, one a line; raises BundleError."""
    return _labels(read_file(root, name, MOST_TEXT), root / name)


def _labels(content: bytes, path: Path) -> list[str]:
    try:
        labels = content.decode().splitlines()
    except UnicodeDecodeError as error:
        raise BundleError(f"{path} cannot be read: {error}.") from None
    if not labels:
        raise BundleError(f"{path} names no class; it needs one a line.")
    if len(labels) > MOST_LABELS:
        raise BundleError(f"{path} names {len(labels):,} classes; at most {MOST_LABELS:,} are served.")
    for number, label in enumerate(labels, 1):
        if not is_label(label):
            raise BundleError(
                f"{path}: line {number:,}, {shown(label)}, is no class: it is longer than {LONGEST_LABEL} characters, "
                "or holds a control character."
            )
    return labels


def read_file(root: Path, name: str, most: int) -> bytes:
    """Return the content of a bundle's file; raises BundleError as ``open_file`` does, and above ``most`` bytes."""
    with open_file(root, name) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise BundleError(f"{root / name} has more than the {most:,} bytes that are read of it.")
    return content


def open_file(root: Path, name: str) -> BufferedReader:
    """Open a bundle's file; raises BundleError unless it is a regular one inside the bundle.

    Others may be read without an end, or be waited for without one. A link may lead to another place in the bundle, as
    those of Kubernetes' volumes do.
    """
    path = inside(root, name)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}.") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BundleError(f"{path} is not a regular file.")
    return os.fdopen(descriptor, "rb")


def inside(root: Path, name: str) -> Path:
    """Return the path of what a bundle holds; raises BundleError where a link leads out of it."""
    path = root / name
    try:
        is_inside = path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):
        raise BundleError(f"{path} is a link that leads to itself.") from None
    if not is_inside:
        raise BundleError(f"{path} is a link that leads out of the bundle; put the file itself there.")
    return path


def artifact_path(root: Path, name: str) -> Path:
    """Return the path of an artifact, a regular file or, without a suffix, a folder; raises BundleError."""
    path = inside(root, name)
    if path.suffix or not path.is_dir():
        open_file(root, name).close()
    return path


def is_label(name: str) -> bool:
    """Whether a class may be called so: what feedback, its export and the page can show and keep."""
    return len(name) <= LONGEST_LABEL and not any(unicodedata.category(one) in NOT_IN_TEXT for one in name)


def hash_files(root: Path, *names: str) -> dict[str, str]:
    """Return the sha256 of each named file, and of each file below each named folder, by path inside ``root``."""
    hashes = {}
    for file in sorted({file for name in names for file in _files(root / name)}):
        name = file.relative_to(root).as_posix()
        with open_file(root, name) as content:
            hashes[name] = hashlib.file_digest(content, "sha256").hexdigest()
    return hashes


def _files(path: Path) -> Iterator[Path]:
    """Yield what is not a folder, at a path and below; raises BundleError for a link to a folder below it."""
    if not path.is_dir():
        if os.path.lexists(path):
            yield path
        return
    for found in path.rglob("*"):
        if found.is_symlink() and found.is_dir():
            raise BundleError(f"{found} is a link to a folder; put the folder itself there.")
        if not found.is_dir():
            yield found


def verify_files(path: Path, manifest: Manifest) -> None:
    """Raise BundleError unless every file that decides an answer is there and has the hash the manifest states."""
    artifacts = {name for names in ARTIFACTS.values() for name in names} | {manifest.artifact}
    present = hash_files(path, manifest.labels, GOLDEN, *sorted(artifacts))
    for name, expected in manifest.sha256.items():
        if present.get(name) != expected:
            state = "is missing" if name not in present else "has been altered: its sha256 is not the manifest's"
            raise BundleError(f"{path / name} {state}.")
    unlisted = sorted(present.keys() - manifest.sha256.keys())
    if unlisted:
        raise BundleError(f"{path / unlisted[0]} is not listed in {MANIFEST}; a bundle vouches for each of its files.")
    if not any(name == manifest.artifact or name.startswith(f"{manifest.artifact}/") for name in present):
        raise BundleError(f"{path / manifest.artifact} is missing.")


def write_manifest(path: Path, manifest: Manifest) -> Manifest:
    """Hash what lies in ``path`` and write ``model.json`` there; return it as written."""
    artifacts = sorted({name for names in ARTIFACTS.values() for name in names})
    hashed = manifest.model_copy(update={"sha256": hash_files(path, manifest.labels, GOLDEN, *artifacts)})
    (path / MANIFEST).write_text(hashed.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return hashed
