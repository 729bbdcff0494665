"""Rows of a damaged SQLite file, page by page, without the trees that should lead to them.

SQLite itself reaches a row from the root downwards, so one bad page hides all that lies below it.
Here every page that looks like one of rows is read by itself; what does not parse is left out.
Deleted rows do not come back: the log overwrites what it deletes.

Source: https://www.sqlite.org/fileformat2.html, sections 1.3 (header), 1.6 (pages), 2.1 (records).
"""

import mmap
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

MAGIC = b"SQLite format 3\0"
DEFAULT_PAGE_BYTES = 4096
_HEADER_BYTES = 100
_TABLE_LEAF, _INDEX_LEAF, _INDEX_INTERIOR = 13, 10, 2
_CELLS_AT = {_TABLE_LEAF: 8, _INDEX_LEAF: 8, _INDEX_INTERIOR: 12}
_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
Value = None | int | float | str | bytes


class Row(NamedTuple):
    """Hold one row of a table, or one entry of an index."""

    row_id: int | None
    """``None`` for an entry of an index, which has the row's number as its last value."""
    values: Sequence[Value]


def read_rows(path: Path) -> Iterator[Row]:
    """Yield every row and every index entry that can be read, in the order of the file."""
    if path.stat().st_size == 0:
        return
    with (
        path.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        yield from _Pages(data).rows()


class _Pages:
    """Read the pages of one file."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._page_bytes = DEFAULT_PAGE_BYTES
        if data[: len(MAGIC)] == MAGIC:
            found = int.from_bytes(data[16:18], "big")
            self._page_bytes = 65_536 if found == 1 else found or DEFAULT_PAGE_BYTES

    def rows(self) -> Iterator[Row]:
        """Yield what each page holds."""
        for start in range(0, len(self._data) - self._page_bytes + 1, self._page_bytes):
            header = start + (_HEADER_BYTES if start == 0 else 0)
            kind = self._data[header]
            if kind not in _CELLS_AT:
                continue
            [num_cells] = struct.unpack_from(">H", self._data, header + 3)
            first = header + _CELLS_AT[kind]
            if first + 2 * num_cells > start + self._page_bytes:
                continue
            for place in struct.unpack_from(f">{num_cells}H", self._data, first):
                try:
                    yield self._cell(kind, start + place)
                except (IndexError, ValueError, struct.error):
                    continue

    def _cell(self, kind: int, at: int) -> Row:
        """Return one row; raises where it is none."""
        if kind == _INDEX_INTERIOR:
            at += 4
        length, at = _varint(self._data, at)
        row_id = None
        if kind == _TABLE_LEAF:
            row_id, at = _varint(self._data, at)
        return Row(row_id, _record(self._payload(at, length, is_table=kind == _TABLE_LEAF)))

    def _payload(self, at: int, length: int, *, is_table: bool) -> bytes:
        """Return a record's bytes: those on its page, and those on the pages behind it."""
        usable = self._page_bytes
        most = usable - 35 if is_table else (usable - 12) * 64 // 255 - 23
        if length <= most:
            return self._data[at : at + length]
        if length > len(self._data):
            raise ValueError("longer than the file")
        least = (usable - 12) * 32 // 255 - 23
        local = least + (length - least) % (usable - 4)
        local = local if local <= most else least
        found = bytearray(self._data[at : at + local])
        [page] = struct.unpack_from(">I", self._data, at + local)
        while len(found) < length:
            if page == 0:
                raise ValueError("ends too early")
            start = (page - 1) * usable
            [page] = struct.unpack_from(">I", self._data, start)
            found += self._data[start + 4 : start + usable]
        return bytes(found[:length])


def _record(payload: bytes) -> list[Value]:
    """Return the values of a record.

    Raises:
        ValueError: it is none.
        IndexError: it ends too early.
    """
    size, at = _varint(payload, 0)
    kinds = []
    while at < size:
        kind, at = _varint(payload, at)
        kinds.append(kind)
    values: list[Value] = []
    for kind in kinds:
        value, at = _value(payload, at, kind)
        values.append(value)
    if at != len(payload):
        raise ValueError("a record of another length")
    return values


def _value(payload: bytes, at: int, kind: int) -> tuple[Value, int]:
    if kind == 0:
        return None, at
    if kind in (8, 9):
        return kind - 8, at
    if kind >= 12:
        end = at + (kind - 12) // 2
        return payload[at:end].decode() if kind % 2 else payload[at:end], end
    if kind == 7:
        return struct.unpack_from(">d", payload, at)[0], at + 8
    if kind not in _INTEGER_BYTES:
        raise ValueError("no value has this type")
    end = at + _INTEGER_BYTES[kind]
    return int.from_bytes(payload[at:end], "big", signed=True), end


def _varint(data: bytes | mmap.mmap, at: int) -> tuple[int, int]:
    """Return a number of one to nine bytes, and where it ends."""
    value = 0
    for place in range(at, at + 8):
        byte = data[place]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, place + 1
    return value << 8 | data[at + 8], at + 9
