"""The worker that turns a part of events into a part of sequences."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from rec.artifacts import link_or_copy
from rec.data.items import load_items
from rec.data.sequences import EVENT_COLUMNS, build_sequences, save_part
from rec.stages.log_parts import part_name


@dataclass(frozen=True, kw_only=True, slots=True)
class SequencePartition:
    """Turn one part of events into a part of sequences."""

    events: Path
    catalog: Path
    folder: Path
    queries: tuple[str, ...]
    event_type_names: tuple[str, ...]
    before: Path | None = None
    """Sequences of older events with the same numbers for the same names."""
    unchanged: frozenset[str] = frozenset()
    """Parts of the events that are as they were then: theirs get a second name."""

    def __call__(self, partition: int) -> int:
        """Return the number of users with at least one event."""
        name = part_name(partition)
        if not (self.events / name).is_file():
            return 0
        if self.before is not None and name in self.unchanged:
            link_or_copy(self.before / name, self.folder / name)
            return int(pq.read_metadata(self.folder / name).num_rows)
        sequences = build_sequences(
            pl.read_parquet(self.events / name, columns=list(EVENT_COLUMNS)),
            item_ids=load_items(self.catalog)["item_id"].to_list(),
            queries=self.queries,
            event_type_names=self.event_type_names,
        )
        save_part(sequences, self.folder / name)
        return sequences.num_users
