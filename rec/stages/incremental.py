"""Going on from a release: its towers move to today's catalog and learn what has happened since.

The towers begin with the release's weights and read the newest events of the users who have done
something since, for a few epochs at a third of the rate; older events are read again with them, so
that little is forgotten. The ranker's trees stay those of the release, because the towers have
already learnt from the window that trees would need; the tables that they read are made anew.

Shapes: V items.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rec.artifacts import Artifact, read_artifact
from rec.data.sequences import Sequences, load_sequences
from rec.errors import ArtifactError, ConfigError, DataError
from rec.models.sequence_model import ModelConfig, SequenceModel
from rec.ranking.release import ReleaseFiles, read_release_files

_BY_ITEM = "items.residual.weight"
_BY_EVENT_TYPE = "event_types.weight"


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """Hold the release that training goes on from.

    Attributes:
        name: of the release.
        files: its content.
        end_ms: the newest event it has learnt from.
    """

    name: str
    files: ReleaseFiles
    end_ms: int

    def check_unseen(self, cut_ms: int) -> None:
        """Refuse a test part that the release has learnt from.

        Raises:
            ConfigError: its log ends after the part begins.
        """
        if self.end_ms >= cut_ms:
            raise ConfigError(
                f"--init-from {self.name}: the release has learnt from events up to {self.end_ms}, "
                f"and the test part begins at {cut_ms} (ms): its figures would be too good; raise "
                "--evaluation.test-quantile"
            )

    def move_into(
        self, model: SequenceModel, *, item_ids: Sequence[str], event_type_names: Sequence[str]
    ) -> None:
        """Give a model the release's weights, in place.

        Items and event types are found by name; those that the release does not know keep the
        place of an item without events and of an event type without meaning.

        Raises:
            ConfigError: the model is not of the release's shape.
        """
        theirs = self.files.model
        if model.config != theirs.config:
            raise ConfigError(
                f"--init-from {self.name}: its model is {_differences(theirs.config, model.config)}"
                ": give the same --model flags, or train anew without --init-from"
            )
        if _image_width(model) != _image_width(theirs):
            raise ConfigError(
                f"--init-from {self.name}: it sees images of width {_image_width(theirs)}, the "
                f"embeddings have {_image_width(model)} (0 is none): embed with the same images, "
                "or train anew without --init-from"
            )
        mine, old = model.state_dict(), theirs.state_dict()
        moved = dict(old)
        for name, places in (
            (_BY_ITEM, _places(self.files.items["item_id"].to_list(), item_ids)),
            (_BY_EVENT_TYPE, _places(self.files.event_type_names, event_type_names)),
        ):
            if name in old:
                moved[name] = _moved(old[name], mine[name], places)
        model.load_state_dict(moved)

    def events_since(self, log: Sequences, *, max_length: int) -> Sequences:
        """Return the newest events of each user who has done something since the release.

        Args:
            log: what may be learnt from.
            max_length: events that the user tower reads at once; as many older ones stay.

        Raises:
            DataError: nothing has happened since.
        """
        is_new = log.timestamps_ms > self.end_ms
        num_new = np.bincount(log.rows()[is_new], minlength=log.num_users)
        if not num_new.any():
            raise DataError(
                f"nothing to learn since release {self.name}: no event before the test part is "
                "newer than its log; wait for more, or choose a smaller --newest-hours"
            )
        from_end = log.offsets[1:][log.rows()] - np.arange(log.num_events)
        reach = num_new + max_length * (num_new > 0)
        kept = log.select_events(from_end <= reach[log.rows()])
        return kept.select_users(np.flatnonzero(num_new))


def open_start(workspace: Path, name: str, *, fingerprint: str) -> Start:
    """Return a release to go on from.

    Args:
        workspace: root of the artifacts.
        name: of the release.
        fingerprint: of the encoder that today's embeddings are made with.

    Raises:
        ArtifactError: it is not there, a file of it has changed, another encoder made it, or the
            log it has learnt from is gone.
    """
    release = find_release(workspace, name)
    files = read_release_files(read_artifact(release.path, verify=True).path)
    if files.fingerprint != fingerprint:
        raise ArtifactError(
            f"--init-from {name}: it was made with encoder {files.fingerprint}, the newest "
            f"embeddings with {fingerprint}: train anew without --init-from"
        )
    return Start(name=name, files=files, end_ms=log_end_ms(workspace, release))


def find_release(workspace: Path, name: str) -> Artifact:
    """Return the release of a name.

    Raises:
        ArtifactError: it is not there.
    """
    folder = workspace / "releases" / name
    if not name or Path(name).name != name or not folder.is_dir():
        raise ArtifactError(
            f"expected a release {name!r} in {workspace / 'releases'}, found none: "
            "name one of that folder, or `current`"
        )
    return read_artifact(folder)


def log_end_ms(workspace: Path, release: Artifact) -> int:
    """Return the newest event that a release has learnt from.

    Raises:
        ArtifactError: the sequences it was made of are gone, so that nobody can say.
    """
    folder = workspace / "sequences" / release.parents["sequences"]
    if not folder.is_dir():
        raise ArtifactError(
            f"expected the sequences of release {release.name} in {folder}, found none: what it "
            "has learnt cannot be told from what is new; train anew without --init-from"
        )
    return int(load_sequences(folder).timestamps_ms.max(initial=0))


def _image_width(model: SequenceModel) -> int:
    fusion = model.items.fusion
    return 0 if fusion is None else fusion.embeddings.shape[1]


def _places(theirs: Sequence[str], ours: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return the rows of what both know, theirs and ours; row 0 is padding in both."""
    row_of = {name: row for row, name in enumerate(theirs, start=1)}
    both = [(row_of[name], row) for row, name in enumerate(ours, start=1) if name in row_of]
    pairs = torch.tensor([(0, 0), *both], dtype=torch.int64)
    return pairs[:, 0], pairs[:, 1]


def _moved(theirs: Tensor, ours: Tensor, places: tuple[Tensor, Tensor]) -> Tensor:
    """Return their rows at our places, zeros elsewhere: a name without a meaning of its own."""
    moved = torch.zeros_like(ours)
    moved[places[1]] = theirs[places[0]]
    return moved


def _differences(theirs: ModelConfig, ours: ModelConfig) -> str:
    names = [name for name in type(ours).__slots__ if getattr(ours, name) != getattr(theirs, name)]
    both: list[tuple[str, Any, Any]] = [
        (name.replace("_", "-"), getattr(theirs, name), getattr(ours, name)) for name in names
    ]
    return ", ".join(f"--model.{name} {old} and not {new}" for name, old, new in both)
