"""A file to passages, where a hostile one can do no harm.

Reading happens in a process of its own with limits that the kernel enforces, because nothing else can stop a parser: a
thread cannot be ended, a regular expression or `unicodedata.normalize` on millions of combining marks holds the
interpreter for hours, and a crash in a C library would take the worker with it. That process costs 0.1 s for HTML and
0.5 s for a PDF; small plain text is read in a thread, as no 64 KiB of it take a second.
"""

import asyncio
import json
import os
import signal
import sys
from dataclasses import asdict

import structlog

from app.core.project import ROOT
from app.features.documents.chunking import Passage, cut
from app.features.documents.extraction import Limits, MediaType, UnreadableError
from app.features.documents.settings import DocumentsSettings

log = structlog.get_logger(__name__)

SMALL = 65_536
PLAIN = (MediaType.TEXT, MediaType.MARKDOWN)
COMPLEX = "The file is too complex to be read."
# What a program needs to be found and started; everything else in the environment is nobody's business there.
PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT")


async def read(data: bytes, media_type: MediaType, settings: DocumentsSettings) -> list[Passage]:
    """The passages of a file.

    Raises:
        UnreadableError: the file cannot be read, or takes more than the limits.
        TimeoutError: this machine had no time for it; later may work.
    """
    limits = Limits(
        pages=settings.max_pages,
        characters=settings.max_characters,
        unpacked=settings.max_unpacked_bytes,
        # Of the clock, and asked between pages: so that the usual slow file is told before the kernel ends it.
        seconds=settings.extract_seconds * 0.9,
    )
    cutting = {
        "characters": settings.passage_characters,
        "overlap": settings.passage_overlap,
        "most": settings.max_passages,
    }
    if media_type in PLAIN and len(data) <= SMALL:
        return await asyncio.to_thread(lambda: cut(data, media_type, limits, **cutting))
    order = {
        "media_type": media_type,
        "limits": asdict(limits),
        "seconds": settings.extract_seconds,
        "memory_bytes": settings.extract_memory_mb * 1024 * 1024,
        **cutting,
    }
    answer = json.loads(await _run(json.dumps(order), data, settings.extract_seconds))
    if "unreadable" in answer:
        raise UnreadableError(answer["unreadable"])
    return [Passage(*passage) for passage in answer["passages"]]


async def _run(order: str, data: bytes, seconds: int) -> bytes:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "app.features.documents.extraction",
        order,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={name: os.environ[name] for name in PASSED_ON if name in os.environ},
    )
    try:
        # The kernel counts the time that it works; a loaded machine gives it half of that of the clock, or less.
        async with asyncio.timeout(seconds * 4 + 10):
            answer, errors = await process.communicate(data)
    finally:
        if process.returncode is None:  # out of time, or this task was cancelled
            process.kill()
            await process.wait()
    code = process.returncode or 0
    if code == 0:
        return answer
    log.warning(
        "extraction_broke_off",
        code=code,
        signal=signal.Signals(-code).name if code < 0 else "",
        error=errors.decode("utf-8", "replace")[-500:],
    )
    raise UnreadableError(COMPLEX)
