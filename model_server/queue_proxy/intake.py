"""From an asynchronous request's body to what is stored: one image, or a V1 document."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import Scope

from model_server.config import ServiceSettings
from model_server.documents import v1_request
from model_server.errors import InvalidInput, PayloadTooLarge, UnsupportedMediaType, shown
from model_server.http import body, json_body
from model_server.http.base64_text import encode_base64

MULTIPART = "multipart/form-data"
FILE_FIELD = "file"
LONGEST_FORM_TYPE = 256
"""Characters: a boundary has at most 70 (RFC 2046, section 5.1.1), and reading the field takes the square of them."""
SIGNATURES = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
)
"""First bytes of what the predictor decodes. WebP has its name at byte 8."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be classified: an image, or else a document; and the parameters beside an image."""

    image: bytes | None = None
    media_type: str = ""
    document: bytes | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    count: int = 1
    """Images in it."""

    @property
    def image_sha256(self) -> bytes | None:
        """Hash that the image is stored under."""
        return None if self.image is None else hashlib.sha256(self.image).digest()


def v1_body(image: bytes, media_type: str, parameters: Mapping[str, Any]) -> tuple[bytes, str]:
    """Return the body of a V1 request about one image, and its content type."""
    if not parameters:
        return image, media_type
    instance = {"b64": encode_base64(image)}
    return orjson.dumps({"instances": [instance], "parameters": parameters}), "application/json"


def fingerprint(model: str, content_sha256: bytes, parameters: Mapping[str, Any]) -> bytes:
    """Return a hash of all that decides the result, but for the model's version."""
    ordered = orjson.dumps(parameters, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(b"\0".join((model.encode(), content_sha256, ordered))).digest()


async def read_work(scope: Scope, data: bytes, settings: ServiceSettings) -> Work:
    """Check a V1 body and return what to store; raises InvalidInput, PayloadTooLarge or UnsupportedMediaType."""
    media_type = body.media_type(scope)
    if media_type.startswith("image/"):
        return image_work(data, "The body", settings)
    if media_type == MULTIPART:
        _, content = await uploaded(scope, data, FILE_FIELD)
        return image_work(content, f"The field {FILE_FIELD!r}", settings)
    if media_type in body.JSON_TYPES:
        return _document_work(data, settings)
    raise UnsupportedMediaType(
        f"The content type {shown(media_type)} is not read; send application/json, {MULTIPART}, or an image as image/*."
    )


def work_of(images: Sequence[bytes], where: str, settings: ServiceSettings) -> Work:
    """Check encoded images and return what to store: one as it is, several as the V1 document of all of them."""
    for place, image in enumerate(images):
        check_image(image, f"{where}[{place}]", settings)
    if len(images) == 1:
        return image_work(images[0], f"{where}[0]", settings)
    document = orjson.dumps({"instances": [{"b64": encode_base64(image)} for image in images]})
    if len(document) > settings.max_body_bytes:
        raise PayloadTooLarge(
            f"The images take {len(document):,} bytes as base64; at most {settings.max_body_bytes:,} are allowed."
        )
    return Work(document=document, count=len(images))


def image_work(data: bytes, where: str, settings: ServiceSettings, parameters: dict[str, Any] | None = None) -> Work:
    """Check one encoded image and return it as what is to be classified."""
    return Work(data, check_image(data, where, settings), parameters=parameters or {})


def check_image(data: bytes, where: str, settings: ServiceSettings) -> str:
    """Return the media type of encoded bytes by their signature."""
    if not data:
        raise InvalidInput(f"{where} is empty.")
    if len(data) > settings.max_image_bytes:
        raise PayloadTooLarge(
            f"{where} is an image of {len(data):,} bytes; at most {settings.max_image_bytes:,} are allowed."
        )
    if media_type := _media_type(data):
        return media_type
    raise InvalidInput(f"{where} is not an image that can be read: JPEG, PNG, WebP, BMP, GIF or TIFF.")


def is_encoded(data: bytes) -> bool:
    """Whether bytes that may be raw pixels have an image's signature, and of BMP, which is short, the length too."""
    media_type = _media_type(data)
    return media_type is not None and (media_type != "image/bmp" or data[2:6] == len(data).to_bytes(4, "little"))


def _media_type(data: bytes) -> str | None:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((media_type for signature, media_type in SIGNATURES if data.startswith(signature)), None)


async def uploaded(scope: Scope, data: bytes, field: str) -> tuple[dict[str, str], bytes]:
    """Return the texts of a form and the content of the one file in it; raises InvalidInput where there is none."""
    if len(body.header(scope, b"content-type")) > LONGEST_FORM_TYPE:
        raise InvalidInput("The form cannot be read: its content type is too long.")

    async def stream() -> Any:
        yield data

    parser = MultiPartParser(Headers(scope=scope), stream(), max_files=1, max_fields=8)
    parser.spool_max_size = len(data)  # in memory, as the body is: a container may have no folder to write to
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError) as error:
        raise InvalidInput(f"The form cannot be read: {getattr(error, 'message', 'it has no boundary')}") from None
    file = form.get(field)
    try:
        if not isinstance(file, UploadFile):
            raise InvalidInput(f"The form needs one image in its field {field!r}.")
        return {name: value for name, value in form.items() if isinstance(value, str)}, await file.read()
    finally:
        await form.close()


def _document_work(data: bytes, settings: ServiceSettings) -> Work:
    request = v1_request.parse(json_body.parse(data, settings.max_json_values), settings.max_instances)
    found = [v1_request.image(item, f"instances[{place}]") for place, item in enumerate(request.instances)]
    for place, image in enumerate(found):
        if isinstance(image, bytes):
            check_image(image, f"instances[{place}]", settings)
    (first, *others) = found
    if isinstance(first, bytes) and not others:
        return image_work(first, "instances[0]", settings, request.parameters.model_dump(exclude_unset=True))
    return Work(document=data, count=len(found))
