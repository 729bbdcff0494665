"""Which items there are now: the release's catalog with what was put and deleted since."""

import logging

from rec.ranking.feedback.stores import LOG_ERRORS, Changes

_log = logging.getLogger(__name__)


class LiveItems:
    """Know the ids of the live catalog; asking costs one read of a few microseconds."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._seq = 0
        self._present: set[str] = set()
        self._deleted: set[str] = set()

    def over(self, catalog: frozenset[str]) -> "LiveCatalogIds":
        """Return the ids of a release's catalog with the changes that are durable now.

        Every change counts, also those that the catalog contains already: they stay in force.
        While the log cannot be read the ones known so far hold.
        """
        try:
            found = self._changes.names_after(self._seq)
        except LOG_ERRORS as error:
            _log.warning("the item changes cannot be read, the ones known so far hold: %s", error)
            found = []
        for change in found:
            into, out_of = self._present, self._deleted
            if change.is_deleted:
                into, out_of = out_of, into
            into.add(change.item_id)
            out_of.discard(change.item_id)
            self._seq = change.seq
        return LiveCatalogIds(catalog, present=self._present, deleted=self._deleted)


class LiveCatalogIds:
    """Hold a catalog's ids under changes."""

    def __init__(self, catalog: frozenset[str], *, present: set[str], deleted: set[str]) -> None:
        self._catalog = catalog
        self._present = present
        self._deleted = deleted

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._present or (
            item_id in self._catalog and item_id not in self._deleted
        )

    def __len__(self) -> int:
        return (
            len(self._catalog)
            + len(self._present - self._catalog)
            - len(self._deleted & self._catalog)
        )
