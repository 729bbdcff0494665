"""A release with item changes answers as one that had those items from the start."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from rec.data.events import Event
from rec.encoders import load_encoder
from rec.errors import DataError
from rec.ranking.current import current_release
from rec.ranking.feedback.event_log import LOG_FILE, EventLog
from rec.ranking.feedback.item_changes import ItemChange, ItemChanges
from rec.ranking.item_rows import clean_item, render_item
from rec.ranking.live_catalog import LiveRecommender, TextProjection, extend_files
from rec.ranking.recommender import Recommender
from rec.ranking.release import ReleaseFiles, read_image_width, read_release_files
from rec.ranking.requests import Request, SearchRequest
from tests.releases import IMAGELESS, make_release

NEW = "new-1"


class Shop:
    """Hold a live recommender and the log that it follows."""

    def __init__(self, workspace: Path, release: Path) -> None:
        self.files = read_release_files(release)
        self.changes = ItemChanges(EventLog(workspace / LOG_FILE))
        self.live = LiveRecommender(self.files, release="r", changes=self.changes, through=0)
        self.encoder = load_encoder(dict(self.files.encoder))
        self.image_width = read_image_width(release)

    def put(self, item_id: str, **values: object) -> None:
        width = self.image_width
        item = clean_item(item_id, values, schema=self.files.items.schema, image_width=width)
        text = render_item(item, self.files.encoder["template"])
        self.changes.append(
            [
                ItemChange(
                    item_id=item_id,
                    timestamp_ms=1,
                    item=item,
                    embedding=self.encoder.encode([text])[0],
                    fingerprint=self.files.fingerprint,
                )
            ]
        )

    def delete(self, item_id: str) -> None:
        self.changes.append([ItemChange(item_id=item_id, timestamp_ms=1)])

    def search(self, text: str, **bounds: object) -> list[str]:
        search = SearchRequest(
            text=self.encoder.encode([text])[0],
            request=Request(**bounds),  # type: ignore[arg-type]
            personal_weight=0.0,
        )
        return [item.item_id for item in self.live.follow().search([search])[0].items]

    def lists(self, **bounds: object) -> list[str]:
        [answer] = self.live.follow().recommend([Request(**bounds)])  # type: ignore[arg-type]
        return [item.item_id for item in answer.items]


@pytest.fixture
def small_shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path, make_release(tmp_path))


@pytest.fixture
def ranked_shop(released_workspace: Path, tmp_path: Path) -> Shop:
    """Give a shop whose release has a ranker and its sources."""
    found = Shop(tmp_path, current_release(released_workspace))
    assert found.files.tables is not None
    return found


def e_i(shop: Shop, item_id: str) -> torch.Tensor:
    files = shop.live.follow().files
    return files.embeddings[files.items["item_id"].to_list().index(item_id)]


IMAGE_WIDTH = 6


def test_image_that_is_put_counts_as_one_of_the_catalog(tmp_path: Path) -> None:
    shop = Shop(tmp_path, make_release(tmp_path, image_width=IMAGE_WIDTH))
    model = shop.files.items
    with_image, without = (model.row(n, named=True) for n in (IMAGELESS, 0))
    said = {name: with_image[name] for name in ("title", "text", "category", "colour")}
    # Twice as long: what counts is where it points.
    twice = [2 * number for number in with_image["image_embedding"]]
    again = ItemChange(
        item_id=with_image["item_id"],
        timestamp_ms=1,
        item={**said, "image_embedding": twice},
        embedding=shop.files.text[IMAGELESS + 1].numpy(),
        fingerprint=shop.files.fingerprint,
    )
    same = extend_files(shop.files, [again], projection=None)
    torch.testing.assert_close(same.embeddings, shop.files.embeddings)
    shop.put(with_image["item_id"], **said, image_embedding=twice)
    before, of_text = e_i(shop, with_image["item_id"]), e_i(shop, without["item_id"])
    shop.put(with_image["item_id"], **said)
    assert (e_i(shop, with_image["item_id"]) - before).norm() > 1e-3
    shop.put(without["item_id"], title=without["title"], text=without["text"],
             category=without["category"], image_embedding=twice)  # fmt: skip
    assert (e_i(shop, without["item_id"]) - of_text).norm() > 1e-3
    shop.put(NEW, title="lamp", image_embedding=twice)
    shop.put("new-2", title="lamp")
    shop.put("new-3", title="lamp", image_embedding=[0.0] * IMAGE_WIDTH)
    assert (e_i(shop, NEW) - e_i(shop, "new-2")).norm() > 1e-3
    torch.testing.assert_close(e_i(shop, "new-3"), e_i(shop, "new-2"))


def test_image_of_another_release_leaves_the_item_to_its_text(tmp_path: Path) -> None:
    shop = Shop(tmp_path, make_release(tmp_path, image_width=IMAGE_WIDTH))
    shop.image_width = 2
    shop.put(NEW, title="lamp", image_embedding=[1.0, 2.0])
    shop.put("new-2", title="lamp")
    torch.testing.assert_close(e_i(shop, NEW), e_i(shop, "new-2"))


@pytest.mark.parametrize(
    ("width", "image", "message"),
    [
        (None, [1.0], "expected no image_embedding: the release"),
        (IMAGE_WIDTH, [1.0], "to be 6 finite numbers, as the catalog's, got 1"),
        (IMAGE_WIDTH, [float("inf")] * IMAGE_WIDTH, "6 finite numbers"),
    ],
)
def test_image_that_a_release_cannot_use_is_refused(
    tmp_path: Path, width: int | None, image: list[float], message: str
) -> None:
    shop = Shop(tmp_path, make_release(tmp_path, image_width=width))
    with pytest.raises(DataError, match=message):
        shop.put(NEW, title="lamp", image_embedding=image)


def view(item_id: str) -> Event:
    return Event(user_id="u", event_type="view", timestamp_ms=1, item_id=item_id)


@pytest.mark.parametrize("name", ["small_shop", "ranked_shop"])
def test_new_item_is_found_by_its_text_alone(name: str, request: pytest.FixtureRequest) -> None:
    shop: Shop = request.getfixturevalue(name)
    assert not shop.live.follow().has_item(NEW)
    shop.put(NEW, title="Ultraviolet umbrella stand", category=["umbrellas"], shade="ultraviolet")
    assert shop.search("ultraviolet umbrella stand", k=3)[0] == NEW
    assert shop.lists(filters={"shade": ("ultraviolet",)}) == [NEW]
    assert shop.lists(filters={"category": ("umbrellas",)}, history=(view(NEW),)) == []
    assert NEW in shop.lists(history=(view(shop.files.items["item_id"][3]),), k=10_000)
    nearest = shop.live.follow().similar(NEW, k=3)
    assert len(nearest.items) == 3
    shop.put("new-2", title="Ultraviolet umbrella stand")
    assert shop.live.follow().similar(NEW, k=1).items[0].item_id == "new-2"
    assert shop.lists(history=(view(NEW),), k=5)


@pytest.mark.parametrize("name", ["small_shop", "ranked_shop"])
def test_deleted_item_is_gone_from_every_answer(name: str, request: pytest.FixtureRequest) -> None:
    shop: Shop = request.getfixturevalue(name)
    history = (view(shop.files.items["item_id"][5]),)
    gone = shop.lists(history=history)[0]
    title = shop.files.items.filter(pl.col("item_id") == gone)["title"][0]
    assert gone in shop.search(title, k=10)
    shop.delete(gone)
    everything = shop.lists(history=history, k=10_000, exclude_seen=False)
    assert gone not in everything
    assert len(everything) == shop.files.items.height - 1
    assert gone not in shop.search(title, k=10_000)
    other = shop.files.items["item_id"][5]
    similar = shop.live.follow().similar(other, k=10_000)
    assert gone not in {item.item_id for item in similar.items}
    assert not shop.live.follow().has_item(gone)
    assert gone not in shop.lists(k=10_000)
    shop.put(gone, title=title)
    assert gone in shop.search(title, k=10)


def test_changed_text_is_encoded_again_and_counts_stay(ranked_shop: Shop) -> None:
    shop, files = ranked_shop, ranked_shop.files
    item_id = files.counts["item_id"][0]
    shop.put(item_id, title="Ultraviolet umbrella stand")
    assert shop.search("ultraviolet umbrella stand", k=1) == [item_id]
    now = shop.live.follow().files
    assert now.items.filter(pl.col("item_id") == item_id)["title"].to_list() == [
        "Ultraviolet umbrella stand"
    ]
    assert now.counts["count"].to_list() == files.counts["count"].to_list()
    place = files.items["item_id"].to_list().index(item_id)
    others = np.arange(files.items.height) != place
    np.testing.assert_array_equal(now.embeddings[others], files.embeddings[others])
    assert not np.allclose(now.embeddings[place], files.embeddings[place])


def test_put_of_what_is_there_changes_nothing(ranked_shop: Shop) -> None:
    files = ranked_shop.files
    row = files.items.row(7, named=True)
    values = {name: value for name, value in row.items() if name not in ("item_index", "item_id")}
    ranked_shop.put(row["item_id"], **values)
    now = ranked_shop.live.follow().files
    assert now.items.equals(files.items)
    np.testing.assert_allclose(now.text, files.text, atol=1e-6)
    np.testing.assert_allclose(now.embeddings, files.embeddings, atol=1e-5)
    assert files.tables is not None
    assert now.tables is not None
    np.testing.assert_allclose(now.tables.text, files.tables.text, atol=1e-4)
    for name in ("follows", "neighbors", "categories"):
        assert abs(getattr(now.tables, name) - getattr(files.tables, name)).max() < 1e-6


def test_items_appended_are_described_like_items_nobody_had(ranked_shop: Shop) -> None:
    """The tables of an item without events, told from the counts, are what building gives."""
    files = ranked_shop.files
    assert files.tables is not None
    unseen = np.flatnonzero(files.tables.counts == 0)
    ranked_shop.put(NEW, title="Ultraviolet umbrella stand")
    tables = ranked_shop.live.follow().files.tables
    assert tables is not None
    if len(unseen):
        old = int(unseen[0])
        np.testing.assert_allclose(tables.log_shares[-1], tables.log_shares[old], atol=1e-6)
        assert tables.repeat_gap[-1] == pytest.approx(tables.repeat_gap[old])
        assert tables.first_ms[-1] == tables.first_ms[old]
    assert tables.follows.shape == (files.items.height + 1,) * 2


def test_changes_survive_a_restart(small_shop: Shop, tmp_path: Path) -> None:
    shop = small_shop
    shop.put(NEW, title="Ultraviolet umbrella stand")
    shop.delete("item/3")
    again = Shop(tmp_path, current_release(tmp_path))
    assert again.search("ultraviolet umbrella stand", k=1) == [NEW]
    assert not again.live.follow().has_item("item/3")
    caught_up = LiveRecommender(
        again.files, release="r", changes=again.changes, through=again.changes.last_seq()
    )
    assert caught_up.follow().has_item("item/3")


def test_embedding_of_another_encoder_is_never_mixed_in(small_shop: Shop) -> None:
    shop = small_shop
    change = ItemChange(
        item_id=NEW,
        timestamp_ms=1,
        item={"title": "x", "text": "", "category": [], "tags": []},
        embedding=np.ones(8, dtype=np.float32),
        fingerprint="another",
    )
    shop.changes.append([change])
    assert not shop.live.follow().has_item(NEW)


@pytest.mark.parametrize("values", [{}, {"title": " "}, {"category": []}, {"price": 3}])
def test_item_without_text_is_refused(small_shop: Shop, values: dict[str, object]) -> None:
    shop = small_shop
    with pytest.raises(DataError, match="item"):
        shop.put(NEW, **values)


def test_value_of_another_type_is_refused() -> None:
    schema = {"price": pl.Float64(), "title": pl.String()}
    assert clean_item("a", {"title": "tea", "price": 3}, schema=schema)["price"] == 3.0
    with pytest.raises(DataError, match="price"):
        clean_item("a", {"title": "tea", "price": "cheap"}, schema=schema)


def test_no_change_is_the_release_itself(small_shop: Shop) -> None:
    shop = small_shop
    files: ReleaseFiles = extend_files(shop.files, [], projection=TextProjection.of(shop.files))
    ours = Recommender(files, release="r").recommend([Request(history=(view("item/2"),))])
    assert ours == Recommender(shop.files, release="r").recommend(
        [Request(history=(view("item/2"),))]
    )
