"""What readers add to the rows of a file, under names that no file can use.

A row that cannot be read as a row is given too, with its reason, so that the caller's counts add
up.
"""

import polars as pl

REASON = "__reason__"
"""Why a row could not be read; null where it could."""
RAW = "__raw__"
"""The text of a row that could not be read."""
ROW = "__row__"
"""Number of the row in its file, int64."""
NESTED = "__nested__"
"""Names of the row's columns whose value was a list or an object; only where there were any."""
MARKS = (REASON, RAW, ROW, NESTED)
CHUNK_ROWS = 1 << 18
"""Rows of one chunk: about 30 MB of events, so that memory does not follow the file's size."""
MAX_RAW_CHARACTERS = 1000
"""Of a row that could not be read that are kept."""


def unreadable(texts: list[str], reason: str) -> pl.DataFrame:
    """Return rows of which nothing but their text is known."""
    return pl.DataFrame(
        {REASON: [reason] * len(texts), RAW: [text[:MAX_RAW_CHARACTERS] for text in texts]},
        schema={REASON: pl.String, RAW: pl.String},
    )


def is_utf8(blob: bytes | None) -> bool:
    """Return whether bytes are text; ``None`` is."""
    try:
        (blob or b"").decode()
    except UnicodeDecodeError:
        return False
    return True
