"""What C libraries write to standard error of a picture: a line now and then, however much it is."""

from __future__ import annotations

import logging
import math
import time

logger = logging.getLogger(__name__)

SECONDS_A_LINE = 10
SHOWN_CHARACTERS = 200


class Complaints:
    """Counts what all workers' libraries write; a picture of 100 KB was seen to make libtiff write 6 MB."""

    def __init__(self) -> None:
        self._bytes = 0
        self._last_line = -math.inf

    def note(self, text: bytes) -> None:
        """Log the beginning of ``text`` on one line, with all that was written since the last, if one is due."""
        self._bytes += len(text)
        now = time.monotonic()
        if not text or now - self._last_line < SECONDS_A_LINE:
            return
        shown = text[:SHOWN_CHARACTERS].decode("latin-1").encode("unicode_escape").decode("ascii")
        logger.warning(
            "a library complained of an image: %s", shown[:SHOWN_CHARACTERS], extra={"bytes_written": self._bytes}
        )
        self._bytes, self._last_line = 0, now
