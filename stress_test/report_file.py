"""The report: prose by hand, and between markers what the programs measured, with the machine and the date."""

from __future__ import annotations

import datetime as dt
import os
import platform
import re
from pathlib import Path

import psutil


def machine() -> str:
    """Return processor, cores, memory, system and day in a sentence."""
    memory, cores = psutil.virtual_memory().total / 2**30, os.cpu_count()
    day = dt.datetime.now(dt.UTC).date().isoformat()
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{day}, {cores} virtual cores of an {_processor()}, {memory:.0f} GiB, {system}"


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return found.group(1) if found else platform.machine()


def replace(file: Path, section: str, text: str) -> None:
    """Put ``text`` between the markers of a section; a file or section that is missing is begun."""
    begin, end = f"<!-- {section} -->", f"<!-- /{section} -->"
    old = file.read_text(encoding="utf-8") if file.exists() else ""
    if begin not in old:
        old += f"{begin}\n{end}\n"
    before, _, rest = old.partition(begin)
    _, _, after = rest.partition(end)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}", encoding="utf-8")
