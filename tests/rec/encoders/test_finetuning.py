"""Fine-tuning: pairs without a future, negatives that are none, and an encoder kept if better."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from accelerate import Accelerator

from rec.data.cleaning import CleaningConfig
from rec.data.events import Impression
from rec.data.sequences import Sequences
from rec.encoders import EncoderConfig
from rec.encoders.prompts import PROMPTS
from rec.errors import ArtifactError, ConfigError, DataError
from rec.models.finetuning import FinetuningConfig
from rec.models.hard_negatives import (
    NUM_NEIGHBOURS,
    SKIPPED_NEIGHBOURS,
    draw_negatives,
    exposed_not_taken,
    mine_neighbours,
)
from rec.models.pair_batches import PairTexts, build_batch
from rec.models.pairs import Pair, PairSampler
from rec.stages.embedding import embed
from rec.stages.finetuned import find_finetuned
from rec.stages.finetuning import FinetuneSettings, find_tuned, finetune_encoder
from rec.stages.preparation import prepare
from tests.rec.encoders.tiny import write_bert

NUM_ITEMS = 40
WORDS = tuple(f"w{number}" for number in range(NUM_ITEMS))
TINY = FinetuningConfig(
    num_rounds=2, steps_per_round=25, batch_size=16, learning_rate=3e-3, max_events=4
)


def sequences_of(
    tokens: Sequence[Sequence[int]], times: Sequence[Sequence[int]], *, queries: int = 0
) -> Sequences:
    lengths = [len(own) for own in tokens]
    return Sequences(
        user_ids=[f"u{number}" for number in range(len(tokens))],
        offsets=np.cumsum([0, *lengths]),
        tokens=np.concatenate(tokens).astype(np.int32),
        timestamps_ms=np.concatenate(times).astype(np.int64),
        event_types=np.zeros(sum(lengths), dtype=np.int16),
        event_type_names=("view",),
        num_items=NUM_ITEMS,
        queries=tuple(f"query {number}" for number in range(queries)),
    )


def texts_of(sequences: Sequences, documents: Sequence[str] = WORDS) -> PairTexts:
    return PairTexts(
        sequences=sequences,
        documents=documents,
        titles=documents,
        prompt=PROMPTS["plain"],
        max_tokens=16,
        count_tokens=lambda texts: [len(text.split()) for text in texts],
    )


def test_anchor_is_never_younger_than_its_target() -> None:
    random = np.random.default_rng(0)
    tokens = [random.integers(1, NUM_ITEMS + 3, size=12) for _ in range(30)]
    times = [np.sort(random.integers(0, 6, size=12)) for _ in range(30)]
    log = sequences_of(tokens, times, queries=2)
    sampler = PairSampler(log, sequence_share=0.5, max_events=5)
    kinds = set()
    for pair in sampler.draw(np.random.default_rng(1), 500):
        own = slice(int(log.offsets[pair.user]), int(log.offsets[pair.user + 1]))
        assert own.start <= pair.start < pair.stop <= own.stop
        moments = log.timestamps_ms[own][log.tokens[own] == pair.target]
        newest = log.timestamps_ms[pair.stop - 1]
        # A history is strictly older, one event may share the target's basket.
        assert newest < moments.max() if pair.is_sequence else newest <= moments.max()
        assert pair.stop - pair.start <= (5 if pair.is_sequence else 1)
        kinds.add((pair.is_sequence, bool(log.tokens[pair.start] > NUM_ITEMS)))
    assert len(kinds) == 4


def test_log_without_pairs_is_refused() -> None:
    with pytest.raises(DataError, match="add events"):
        PairSampler(sequences_of([[1], [2]], [[0], [0]]), sequence_share=0.5, max_events=5)
    repeats = PairSampler(sequences_of([[1, 1]], [[0, 0]]), sequence_share=0, max_events=5)
    with pytest.raises(DataError, match="only repeats"):
        repeats.draw(np.random.default_rng(0), 1)


def test_own_items_and_same_texts_are_no_negatives() -> None:
    """u0 took items 1, 2, 3; u1 took 4, 5. Items 3 and 6 have one text, and so have 4 and 7."""
    documents = list(WORDS)
    documents[5], documents[6] = documents[2], documents[3]
    texts = texts_of(sequences_of([[1, 2, 3], [4, 5]], [[0, 1, 2], [0, 1]]), documents)
    pairs = [
        Pair(user=0, start=0, stop=1, is_sequence=False, target=3),
        Pair(user=1, start=3, stop=4, is_sequence=False, target=5),
    ]
    batch = build_batch(pairs, [2, 6, 7, 8], texts=texts)
    # Documents: 3, 5, then 2 (u0's own), 6 (text of 3), 7 (text of 4, u1's anchor), 8.
    assert batch.is_false.tolist() == [
        [True, False, True, True, False, False],
        [False, True, False, False, True, False],
    ]
    assert [batch.texts[place] for place in batch.documents] == ["w2", "w4", "w1", "w2", "w3", "w7"]
    assert len(set(batch.texts)) == len(batch.texts)


def test_shown_and_not_taken_items_come_before_mined_ones() -> None:
    texts = texts_of(sequences_of([[1, 2, 3], [4, 5]], [[0, 1, 2], [0, 1]]))
    impression = Impression(
        impression_id="a", request_id="a", user_id="u0", timestamp_ms=50,
        item_ids=("i2", "i9", "gone"), positions=(1, 2, 3), propensities=(1.0,) * 3,
        scores=(0.0,) * 3, release="r",
    )  # fmt: skip
    late = replace(impression, item_ids=("i10",), timestamp_ms=100)
    stranger = replace(impression, user_id="nobody")
    exposed = exposed_not_taken(
        [impression, late, stranger],
        texts,
        item_ids=[f"i{number}" for number in range(1, NUM_ITEMS + 1)],
        before_ms=100,
    )
    assert {row: items.tolist() for row, items in exposed.items()} == {0: [9]}
    pairs = [
        Pair(user=0, start=0, stop=1, is_sequence=False, target=3),
        Pair(user=1, start=3, stop=4, is_sequence=False, target=5),
    ]
    found = draw_negatives(
        pairs,
        num_each=1,
        exposed=exposed,
        mined={3: np.array([11]), 5: np.array([4, 12])},
        texts=texts,
        generator=np.random.default_rng(0),
    )
    assert found == [9, 12]


def test_mined_items_are_near_but_not_the_nearest() -> None:
    texts = texts_of(sequences_of([[1, 2]], [[0, 1]]))
    angles = {word: 0.05 * number for number, word in enumerate(WORDS)}

    def encode(names: Sequence[str]) -> np.ndarray:
        return np.asarray([[np.cos(angles[n]), np.sin(angles[n])] for n in names], np.float32)

    found = mine_neighbours([1], range(1, NUM_ITEMS + 1), texts=texts, encode=encode)
    first = 1 + 1 + SKIPPED_NEIGHBOURS
    assert found[1].tolist() == list(range(first, min(NUM_ITEMS, first + NUM_NEIGHBOURS - 1) + 1))


def make_workspace(folder: Path, *, late_shift: int = 1) -> Path:
    """A log of walks along the words; after the cut they go by ``late_shift``."""
    rows = [
        {
            "user_id": f"u{user:02d}",
            "item_id": f"i{(user + place * (late_shift if place >= 9 else 1)) % NUM_ITEMS:02d}",
            "timestamp": 1_700_000_000 + 100_000 * place + user,
        }
        for user in range(60)
        for place in range(10)
    ]
    folder.mkdir()
    items = {"item_id": [f"i{number:02d}" for number in range(NUM_ITEMS)], "title": list(WORDS)}
    pl.DataFrame(items).write_parquet(folder / "items.parquet")
    pl.DataFrame(rows).write_parquet(folder / "events.parquet")
    prepare(
        folder / "workspace",
        events=[str(folder / "events.parquet")],
        items=[str(folder / "items.parquet")],
        config=CleaningConfig(pseudonymize_users=False),
        num_partitions=1,
    )
    return folder / "workspace"


def settings_of(model: str, config: FinetuningConfig = TINY) -> FinetuneSettings:
    encoder = EncoderConfig(model=model, template="{title}", max_tokens=16)
    return FinetuneSettings(finetuning=config, encoder=encoder, test_quantile=0.9)


def tune(workspace: Path, settings: FinetuneSettings, *, resume: bool = False, **options: object):  # type: ignore[no-untyped-def]
    artifact = finetune_encoder(
        workspace, settings, accelerator=Accelerator(cpu=True), resume=resume, **options
    )
    assert artifact is not None
    return artifact


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_bert(tmp_path_factory.mktemp("base"), WORDS)


@pytest.fixture(scope="module")
def tuned_workspace(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = make_workspace(tmp_path_factory.mktemp("tuned") / "shop")
    tune(workspace, settings_of(model))
    return workspace


def test_tuned_encoder_retrieves_better_and_embed_takes_it_by_itself(
    tuned_workspace: Path, model: str
) -> None:
    tuned = find_tuned(tuned_workspace, settings_of(model))
    assert tuned is not None
    details = tuned.manifest["details"]
    assert details["is_better"]
    assert details["ndcg@10"]["after"] > 1.3 * details["ndcg@10"]["before"]
    options = {"template": "{title}", "max_tokens": 16, "backend": "torch"}
    for name in ("auto", "finetuned"):
        used, _ = embed(tuned_workspace, config=EncoderConfig(model=name, **options))
        assert used.manifest["config"]["fingerprint"] == details["fingerprint"]
    other, _ = embed(tuned_workspace, config=EncoderConfig(model=model, **options))
    assert other.manifest["config"]["fingerprint"] == details["base"]["fingerprint"]
    assert details["base"]["fingerprint"] != details["fingerprint"]


def test_worse_encoder_is_refused_and_the_one_in_use_stays(
    tuned_workspace: Path, model: str
) -> None:
    config = EncoderConfig(max_tokens=16, template="{title}")
    in_use = find_finetuned(tuned_workspace, config)
    hasty = replace(TINY, num_rounds=1, steps_per_round=2)
    refused = tune(tuned_workspace, settings_of(model, hasty))
    scores = refused.manifest["details"]["ndcg@10"]
    assert not refused.manifest["details"]["is_better"]
    assert scores["in_use"] >= scores["after"]
    assert find_finetuned(tuned_workspace, config) == in_use
    assert not list(refused.path.rglob("*.safetensors"))


def test_run_that_was_cut_off_ends_as_one_that_was_not(
    tuned_workspace: Path, model: str, tmp_path: Path
) -> None:
    workspace = make_workspace(tmp_path / "shop")
    settings = settings_of(model)

    def cut_off(row: dict[str, object]) -> None:
        if row["round"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(workspace, settings, on_round=cut_off)
    rounds: list[int] = []
    resumed = tune(
        workspace, settings, resume=True, on_round=lambda row: rounds.append(row["round"])
    )
    whole = find_tuned(tuned_workspace, settings)
    assert whole is not None
    assert rounds == [2]
    assert resumed.manifest["details"]["fingerprint"] == whole.manifest["details"]["fingerprint"]


def test_nothing_after_the_cut_is_learnt(tuned_workspace: Path, model: str, tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "shop", late_shift=7)
    other = tune(workspace, settings_of(model)).manifest["details"]
    same = find_tuned(tuned_workspace, settings_of(model))
    assert same is not None
    assert other["fingerprint"] == same.manifest["details"]["fingerprint"]


def test_workspace_without_a_tuned_encoder_says_how_to_get_one(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "shop")
    with pytest.raises(ArtifactError, match=r"jobs\.finetune"):
        embed(workspace, config=EncoderConfig(model="finetuned"))
    with pytest.raises(ConfigError, match="name a transformer"):
        find_tuned(workspace, settings_of("hashing"))
