"""Images outside of the database: in S3, or in a folder, under their hash."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path, PurePosixPath

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url

from model_server.config import ENV_PREFIX
from model_server.errors import InvalidInput, SettingsError, Unavailable, shown

logger = logging.getLogger(__name__)

IN_DATABASE = "postgres:"
CONNECT_SECONDS, TOTAL_SECONDS = 2, 20
RETRIES, RETRY_SECONDS = 2, 5
"""A caller waits for it; whoever asks again later does better than we do."""


class ObjectStorage:
    """Objects below one URL, named ``ab/abcd…`` after the SHA-256 of their content.

    Credentials are those of the usual AWS variables. Every method raises Unavailable where the store does not answer.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        try:
            self._store = _open(self.url)
        except (BaseError, ValueError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise SettingsError(f"{ENV_PREFIX}IMAGE_STORE={shown(url)} cannot be used: {reason}") from None

    def location(self, sha256: bytes) -> str:
        """Return where the image of that hash is kept."""
        return f"{self.url}/{_name(sha256)}"

    async def put(self, sha256: bytes, content: bytes) -> None:
        """Keep an image; it is there when this returns."""
        try:
            await obstore.put_async(self._store, _name(sha256), content)
        except (BaseError, OSError) as error:
            raise _away(error) from error

    async def get(self, sha256: bytes) -> bytes:
        """Return an image; raises Unavailable where it is not there, too: somebody may bring it back."""
        try:
            found = await obstore.get_async(self._store, _name(sha256))
            return bytes(await found.bytes_async())
        except (BaseError, OSError) as error:
            raise _away(error) from error

    async def get_part(self, sha256: bytes, start: int, length: int) -> bytes:
        """Return so many bytes of an image; raises Unavailable."""
        try:
            return bytes(await obstore.get_range_async(self._store, _name(sha256), start=start, length=length))
        except (BaseError, OSError) as error:
            raise _away(error) from error

    async def remove(self, sha256s: Sequence[bytes]) -> None:
        """Remove images; one that is not there is as good as removed."""
        for sha256 in sha256s:
            try:
                await obstore.delete_async(self._store, _name(sha256))
            except FileNotFoundError:
                continue
            except (BaseError, OSError) as error:
                raise _away(error) from error


async def download(url: str, folder: Path) -> None:
    """Copy every object below a URL, such as a bundle at `s3://models/flowers/4`, into a folder, names included.

    Raises InvalidInput where there is none or the URL is none of a store's, Unavailable where it does not answer.
    """
    try:
        store = _open(url.rstrip("/"))
        names = [one["path"] async for some in obstore.list(store) for one in some]
        for name in names:
            await _save(store, name, folder)
    except ValueError as error:
        raise InvalidInput(f"{url} cannot be read: {str(error).splitlines()[0]}") from None
    except (BaseError, OSError) as error:
        logger.warning("%s: %s", url, str(error).splitlines()[0])
        raise Unavailable(f"{url} cannot be read now; the log says why.") from None
    if not names:
        raise InvalidInput(f"There is nothing at {url}.")


async def _save(store: ObjectStore, name: str, folder: Path) -> None:
    if ".." in PurePosixPath(name).parts:
        raise ValueError(f"the name {shown(name)} leads out of the bundle")
    path = folder / name
    await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
    found = await obstore.get_async(store, name)
    with path.open("wb") as file:
        async for chunk in found.stream():
            await asyncio.to_thread(file.write, chunk)


def open_storage(url: str) -> ObjectStorage | None:
    """Return the store that a setting names, None where that is the database; raises SettingsError."""
    return None if url == IN_DATABASE else ObjectStorage(url)


def _open(url: str) -> ObjectStore:
    if url.startswith("file://"):
        return from_url(url, mkdir=True)
    return from_url(
        url,
        client_options={
            # An endpoint of one's own, as AWS_ENDPOINT_URL names it, may be inside the cluster and without TLS.
            "allow_http": True,
            "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
            "timeout": timedelta(seconds=TOTAL_SECONDS),
        },
        retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_SECONDS)},
    )


def _name(sha256: bytes) -> str:
    text = sha256.hex()
    return f"{text[:2]}/{text}"


def _away(error: Exception) -> Unavailable:
    # The store's own words name buckets and addresses: they are for the log alone.
    logger.warning("image store: %s", str(error).splitlines()[0])
    return Unavailable("The image store does not answer. Try again later.")
