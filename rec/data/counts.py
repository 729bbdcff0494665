"""What became of the rows of a log: ``rows_in = kept + duplicates + quarantined``, exactly."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rec.data.cleaning import CleaningConfig
from rec.data.user_cleaning import RARE_ITEM, RARE_USER
from rec.errors import DataError

PLANNED = frozenset({RARE_ITEM, RARE_USER})
"""Reasons that the plan asked for: such rows are not bad, and count for no ``max_bad_ratio``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CleaningCounts:
    """Add up what became of the rows."""

    kept: int = 0
    duplicates: Mapping[str, int] = field(default_factory=dict)
    """Rows by reason."""
    quarantined: Mapping[str, int] = field(default_factory=dict)
    """Rows by reason."""

    @property
    def num_duplicates(self) -> int:
        """Return the duplicates of all reasons."""
        return sum(self.duplicates.values())

    @property
    def num_quarantined(self) -> int:
        """Return the quarantined rows of all reasons."""
        return sum(self.quarantined.values())

    @property
    def rows_in(self) -> int:
        """Return all rows."""
        return self.kept + self.num_duplicates + self.num_quarantined


def add_numbers(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return the sums by name, sorted by name.

    >>> add_numbers([{"b": 1}, {"a": 2, "b": 3}])
    {'a': 2, 'b': 4}
    """
    total: dict[str, int] = {}
    for part in parts:
        for name, number in part.items():
            total[name] = total.get(name, 0) + number
    return dict(sorted(total.items()))


def check_counts(counts: CleaningCounts, config: CleaningConfig) -> None:
    """Refuse a log that is empty or too bad.

    Raises:
        DataError: no event was kept, or the quarantined share is above ``max_bad_ratio``.
    """
    reasons = ", ".join(f"{number} {reason}" for reason, number in counts.quarantined.items())
    if counts.rows_in == 0:
        raise DataError("expected at least one event, the log is empty: check --events")
    num_bad = sum(n for reason, n in counts.quarantined.items() if reason not in PLANNED)
    if num_bad / counts.rows_in > config.max_bad_ratio:
        raise DataError(
            f"{num_bad} of {counts.rows_in} events are bad ({reasons}), more than "
            f"--cleaning.max-bad-ratio {config.max_bad_ratio} allows: mend the log or raise it"
        )
    if counts.kept == 0:
        raise DataError(f"no event of {counts.rows_in} could be kept ({reasons}): mend the log")
