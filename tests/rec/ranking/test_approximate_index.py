"""A faiss structure behind the exact interface: measured, masked inside, never rebuilt."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from rec.errors import ArtifactError, ConfigError
from rec.ranking.feedback.item_changes import ItemChange
from rec.ranking.live_catalog import TextProjection, extend_files
from rec.ranking.recommender import Recommender
from rec.ranking.release import INDEX_FILE, RankingConfig
from rec.ranking.retrieval.approximate import ApproximateIndex
from rec.ranking.retrieval.index import ExactIndex
from rec.ranking.retrieval.index_building import IndexConfig, build_index, recall_of
from rec.stages.indexing import index

pytest.importorskip("faiss", reason="the extra faiss is not installed")

NUM_ITEMS, WIDTH = 4_000, 24
NOTHING = torch.zeros((2, 0), dtype=torch.int64)
RANDOM = torch.Generator().manual_seed(5)
CENTRES = normalize(torch.randn(40, WIDTH, generator=RANDOM), dim=1)
ITEMS = normalize(
    CENTRES[torch.randint(40, (NUM_ITEMS,), generator=RANDOM)]
    + 0.2 * torch.randn(NUM_ITEMS, WIDTH, generator=RANDOM),
    dim=1,
)
USERS = normalize(ITEMS[:30] + 0.2 * torch.randn(30, WIDTH, generator=RANDOM), dim=1)
EXACT = ExactIndex(ITEMS, two_passes=False)


@pytest.fixture(scope="module", params=["hnsw", "ivf"])
def built(request: pytest.FixtureRequest) -> ApproximateIndex:
    made, found = build_index(ITEMS, lambda: USERS, IndexConfig(kind=request.param))
    assert made is not None
    assert found["recall@100"] >= 0.95
    return made


@settings(max_examples=15)
@given(
    seed=st.integers(0, 1000),
    k=st.sampled_from([1, 10, 60]),
    share=st.sampled_from([1.0, 0.4, 0.15, 0.01, 0.0]),
    is_own=st.booleans(),
)
def test_masks_hold_and_k_results_come_back(
    built: ApproximateIndex, seed: int, k: int, share: float, is_own: bool
) -> None:
    random = torch.Generator().manual_seed(seed)
    shape = (30, NUM_ITEMS) if is_own else (NUM_ITEMS,)
    allowed = torch.rand(shape, generator=random) < share
    excluded = torch.stack(
        [
            torch.randint(30, (200,), generator=random),
            torch.randint(1, 4001, (200,), generator=random),
        ]
    )
    found, scores = built.search(USERS, k=k, excluded=excluded, allowed=allowed)
    exact, _ = EXACT.search(USERS, k=k, excluded=excluded, allowed=allowed)
    assert ((found > 0) == (exact > 0)).all()  # as many as the exact search, for everybody
    assert recall_of(found, exact) >= 0.85
    assert (scores.diff(dim=1)[scores[:, 1:].isfinite()] <= 1e-6).all()
    own = (USERS.unsqueeze(1) * ITEMS[(found - 1).clamp(min=0)]).sum(dim=2)
    assert torch.allclose(own[found > 0], scores[found > 0], atol=1e-5)
    for row in range(30):
        ids = found[row][found[row] > 0]
        assert len(ids.unique()) == len(ids)
        assert (allowed[row] if is_own else allowed)[ids - 1].all()
        assert not set(ids.tolist()) & set(excluded[1][excluded[0] == row].tolist())


def test_mask_that_leaves_little_is_searched_exactly(built: ApproximateIndex) -> None:
    allowed = torch.zeros(NUM_ITEMS, dtype=torch.bool)
    allowed[::100] = True
    found, scores = built.search(USERS, k=10, excluded=NOTHING, allowed=allowed)
    exact, values = EXACT.search(USERS, k=10, excluded=NOTHING, allowed=allowed)
    assert (found == exact).all()
    assert torch.allclose(scores, values, atol=1e-6)


def test_mask_far_from_the_user_still_gives_k(built: ApproximateIndex) -> None:
    allowed = torch.zeros(NUM_ITEMS, dtype=torch.bool)
    allowed[(USERS[0] @ ITEMS.T).argsort()[:600]] = True  # all that is near is hidden
    quick = ApproximateIndex(built.structure, ITEMS, kind=built.kind, effort=1)
    found, scores = quick.search(USERS[:1], k=3, excluded=NOTHING, allowed=allowed)
    exact, values = EXACT.search(USERS[:1], k=3, excluded=NOTHING, allowed=allowed)
    assert (found > 0).all()
    assert (found[0] == exact[0]).all()
    assert torch.allclose(scores[0], values[0], atol=1e-6)


def test_items_come_move_and_go_without_a_rebuild(built: ApproximateIndex) -> None:
    items = torch.cat([ITEMS, USERS[:1], USERS[1:2]])  # two new ones, each its user's nearest
    items[99], items[7] = USERS[2], -ITEMS[7]  # and two that are somewhere else now
    now = built.with_items(items, moved=torch.tensor([99, 7]))
    assert now.structure is built.structure
    assert built.structure.ntotal == NUM_ITEMS
    found, scores = now.search(USERS[:3], k=10, excluded=NOTHING)
    assert found[:, 0].tolist() == [NUM_ITEMS + 1, NUM_ITEMS + 2, 100]
    assert torch.allclose(scores[:, 0], torch.ones(3), atol=1e-5)
    near = ITEMS[7:8]  # where the second one was
    assert 8 not in now.search(near, k=50, excluded=NOTHING)[0]
    withdrawn = torch.ones(NUM_ITEMS + 2, dtype=torch.bool)
    withdrawn[[NUM_ITEMS, 99]] = False
    found, _ = now.search(USERS[:3], k=10, excluded=NOTHING, allowed=withdrawn)
    assert (found > 0).all()
    assert not set(found.flatten().tolist()) & {NUM_ITEMS + 1, 100}


@pytest.mark.parametrize(
    "config",
    [
        IndexConfig(kind="hnsw", num_links=2, min_recall=1.0),
        IndexConfig(kind="ivf", min_recall=1.0, num_cells=100),
    ],
)
def test_index_that_finds_too_little_is_refused(
    config: IndexConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rec.ranking.retrieval.index_building._PROBES", (1,))
    monkeypatch.setattr("rec.ranking.retrieval.index_building._EFFORTS", (1,))
    with pytest.raises(ConfigError, match=r"finds 0\.\d+ of the exact search's 100 items"):
        build_index(ITEMS, lambda: USERS, config)


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rec.ranking.retrieval.index_building.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'nextray\[faiss\]'"):
        build_index(ITEMS, lambda: USERS, IndexConfig(min_items=1000))
    made, found = build_index(ITEMS, lambda: USERS, IndexConfig())  # small: nothing is needed
    assert made is None
    assert found == {"kind": "exact"}


def test_release_holds_it_hashed_and_measured(trained_workspace: Path, tmp_path: Path) -> None:
    shutil.copytree(trained_workspace, tmp_path / "w", symlinks=True)
    made, is_there = index(
        tmp_path / "w", ranking=RankingConfig(), config=IndexConfig(kind="hnsw", recall_k=20)
    )
    assert not is_there
    details = made.manifest["details"]["index"]
    assert details["kind"] == "hnsw"
    assert details["recall@20"] >= 0.95
    assert made.manifest["files"][INDEX_FILE]["sha256"]
    recommender = Recommender.load(made.path)
    assert recommender.files.index is not None
    exact = ExactIndex(recommender.files.embeddings)
    places = torch.arange(20)
    found, _ = recommender.files.index.search(
        recommender.files.embeddings[places], k=5, excluded=NOTHING
    )
    expected, _ = exact.search(recommender.files.embeddings[places], k=5, excluded=NOTHING)
    assert recall_of(found, expected) >= 0.95
    # A deleted and a new item: the same structure goes on.
    gone, text = recommender.item_ids[3], recommender.files.text[5].numpy()
    changes = [
        ItemChange(seq=1, item_id=gone, timestamp_ms=1),
        ItemChange(
            seq=2, item_id="new", timestamp_ms=2, item={"item_id": "new", "title": "new"},
            embedding=np.asarray(text), fingerprint=recommender.files.fingerprint,
        ),
    ]  # fmt: skip
    files = extend_files(
        recommender.files, changes, projection=TextProjection.of(recommender.files)
    )
    assert files.index is not None
    assert files.index.structure is recommender.files.index.structure
    live = Recommender(files, release="live")
    assert gone not in {item.item_id for item in live.similar(recommender.item_ids[4], k=50).items}
    assert "new" in {item.item_id for item in live.similar(recommender.item_ids[4], k=50).items}
    path = made.path / INDEX_FILE
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"items\.faiss"):
        Recommender.load(made.path)
    assert json.loads((made.path / "release.json").read_text())["index"]["kind"] == "hnsw"
