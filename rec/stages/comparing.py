"""Compare a candidate with the release that serves, on the newest events: is it worth promoting?

Both are asked what each user takes next after a moment that neither has learnt from: the beginning
of the newest hours, or the end of the log that the release was made of, whichever is later. The
release is what answers today, weights and tables as they are; the candidate answers with the
weights that have seen nothing after the moment.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rec.artifacts import Artifact, read_artifact
from rec.data.items import load_items
from rec.data.sequences import Sequences, load_sequences
from rec.data.splits import temporal_split
from rec.errors import ArtifactError, DataError
from rec.evaluation.evaluate import evaluate
from rec.evaluation.significance import Interval
from rec.ranking.recommender import Recommender
from rec.stages.embedding import load_embeddings
from rec.stages.incremental import log_end_ms
from rec.stages.indexing import ranking_of, release_files
from rec.stages.served_lists import ServedLists
from rec.stages.training import EVALUATED

HOUR_MS = 3_600_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Hold what the newest events say of a candidate and of the release that serves.

    Attributes:
        cut_ms: the moment; what came before it is history.
        num_users: users with an item event from then on.
        candidate: metrics by name.
        release: metrics by name.
        difference: NDCG of the candidate minus that of the release, with its interval.
    """

    cut_ms: int
    num_users: int
    candidate: dict[str, float]
    release: dict[str, float]
    difference: Interval

    @property
    def is_worse(self) -> bool:
        """Return whether the candidate is worse by more than the luck of the users drawn."""
        return self.difference.high < 0


def newest_quantile(
    workspace: Path, *, release: Artifact, hours: float, learn_share: float = 0.0
) -> float:
    """Return the share of the newest sequences' item events that lie before the moment.

    It is the ``test_quantile`` to train and evaluate with.

    Args:
        workspace: root of the artifacts.
        release: what serves today; the moment lies after the end of its log.
        hours: the moment lies at most this long before the end of the newest log.
        learn_share: share of the item events since the release that lie before the moment at
            least, for a candidate that learns from nothing else.

    Raises:
        DataError: there is no item event after the log of the release, or all that there are
            happened at one time and some are to be learnt from.
    """
    sequences = _newest_sequences(workspace)
    times = np.sort(sequences.timestamps_ms[sequences.is_item])
    if not len(times):
        raise DataError("expected item events in the newest sequences, found none")
    end_ms = _end_ms(workspace, release)
    new = times[times > end_ms]
    if not len(new):
        raise DataError("nothing has happened since the release's log ended: nothing to compare")
    earliest = end_ms + 1
    if learn_share > 0:
        earliest = max(int(new[int(learn_share * (len(new) - 1))]), int(new[0])) + 1
        if earliest > new[-1]:
            raise DataError(
                f"expected item events at two times at least since release {release.name}, to "
                "learn from the earlier and compare by the later, found one: wait for more"
            )
    cut_ms = max(int(times[-1]) - round(hours * HOUR_MS), earliest)
    before = int((times < cut_ms).sum())
    if not before:
        raise DataError(f"the whole log lies within the newest {hours:g} hours: nothing to learn")
    # The middle of the event's share, so that no rounding moves the cut.
    return (before + 0.5) / len(times)


def compare(
    workspace: Path, *, index: Artifact, model: Artifact, release: Artifact, quantile: float
) -> Comparison:
    """Return how a candidate and a release do after the moment at ``quantile``.

    Args:
        workspace: root of the artifacts.
        index: the candidate.
        model: its towers, trained with ``test_quantile=quantile``.
        release: what serves today.
        quantile: of :func:`newest_quantile`.

    Raises:
        ArtifactError: the two were made with different encoders.
        DataError: nobody has an event after the moment.
    """
    embeddings = read_artifact(workspace / "embeddings" / index.parents["embeddings"])
    catalog = read_artifact(workspace / "catalog" / index.parents["catalog"])
    sequences = load_sequences(workspace / "sequences" / index.parents["sequences"])
    items = load_items(catalog.path)
    split = temporal_split(sequences, quantile=quantile)
    ranking = ranking_of(index)
    queries = load_embeddings(embeddings)[1]
    files = release_files(
        model,
        embeddings,
        split.train,
        items=items,
        weights=EVALUATED,
        ranking=ranking,
        is_pseudonymized=False,
    )
    serving = Recommender.load(release.path)
    if serving.files.fingerprint != files.fingerprint:
        raise ArtifactError(
            f"the release was made with encoder {serving.files.fingerprint}, the candidate with "
            f"{files.fingerprint}: their lists cannot be compared, promote by hand"
        )
    candidate = ServedLists(Recommender(files, release=index.name), query_embeddings=queries)
    old = TranslatedLists(serving, item_ids=items["item_id"].to_list(), query_embeddings=queries)
    result = evaluate(
        [candidate, old], split.test, train=split.train, exclude_seen=ranking.exclude_seen
    )
    return Comparison(
        cut_ms=split.cut_ms,
        num_users=result.num_users,
        candidate=dict(result.metrics[candidate.name]),
        release=dict(result.metrics[old.name]),
        difference=result.comparisons[old.name],
    )


class TranslatedLists:
    """Make a release's lists over another catalog's numbering.

    Events on items that the release does not know are left out, as they are while it serves.
    """

    name = "release"

    def __init__(
        self,
        recommender: Recommender,
        *,
        item_ids: list[str],
        query_embeddings: NDArray[np.float32],
    ) -> None:
        theirs = {item_id: place + 1 for place, item_id in enumerate(recommender.item_ids)}
        ours = {item_id: place + 1 for place, item_id in enumerate(item_ids)}
        self._recommender = recommender
        self._queries = query_embeddings
        self._to_theirs = np.asarray(
            [0, *(theirs.get(item_id, 0) for item_id in item_ids)], dtype=np.int32
        )
        self._to_ours = np.asarray(
            [0, *(ours.get(item_id, 0) for item_id in recommender.item_ids)], dtype=np.int32
        )

    def top_k(self, histories: Sequences, *, k: int, exclude_seen: bool) -> NDArray[np.int32]:
        """Return int32 ``(B, k)`` item indexes of the other catalog, 0 where none is left."""
        ranked = self._recommender.rank(
            self._translate(histories),
            k=k,
            query_embeddings=self._queries,
            exclude_seen=exclude_seen,
        )
        found: NDArray[np.int32] = self._to_ours[ranked.items]
        return found

    def _translate(self, histories: Sequences) -> Sequences:
        num_theirs = len(self._to_ours) - 1
        is_item = histories.is_item
        tokens = histories.tokens - histories.num_items + num_theirs
        tokens[is_item] = self._to_theirs[histories.tokens[is_item]]
        names = list(self._recommender.files.event_type_names)
        codes = np.asarray(
            [names.index(name) if name in names else -1 for name in histories.event_type_names],
            dtype=np.int16,
        )
        translated = replace(
            histories,
            tokens=tokens.astype(np.int32),
            event_types=codes[histories.event_types],
            event_type_names=tuple(names),
            num_items=num_theirs,
        )
        return translated.select_events(tokens > 0)


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as a summary shows it."""
    return {
        "cut_ms": comparison.cut_ms,
        "users": comparison.num_users,
        "candidate": comparison.candidate,
        "release": comparison.release,
        "difference": comparison.difference.difference,
        "low": comparison.difference.low,
        "high": comparison.difference.high,
    }


def _newest_sequences(workspace: Path) -> Sequences:
    name = (workspace / "sequences" / "latest").read_text(encoding="utf-8").strip()
    return load_sequences(workspace / "sequences" / name)


def _end_ms(workspace: Path, release: Artifact) -> int:
    """Return the newest event that a release has learnt from; 0 where its log is gone."""
    if not (workspace / "sequences" / release.parents["sequences"]).is_dir():
        return 0
    return log_end_ms(workspace, release)
