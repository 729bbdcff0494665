"""Explanations worded by a language model, over HTTP: checked and counted."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from rec.ranking.explanations import explaining
from rec.ranking.explanations.narrating import Narrator
from rec.ranking.release import RankingConfig
from tests.cluster.graph import Graph, running_graph
from tests.releases import make_release

TRUE = "It is in the list because you viewed “red coat”."


def write(prompts: Sequence[str], **_: float) -> list[str]:
    return [TRUE if "viewed “red coat”" in p.rsplit("\n", 2)[-2] else "Best!" for p in prompts]


@pytest.fixture
def graph(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Graph]:
    # The model is another's test; here its words go through the whole graph.
    monkeypatch.setattr(explaining, "load_narrator", lambda _: Narrator(write))
    workspace = tmp_path_factory.mktemp("narrated")
    ranking = replace(RankingConfig(), narrator="some model", narrated_items=3)
    with running_graph(workspace, make_release(workspace, ranking=ranking)) as found:
        yield found


def narrations(graph: Graph) -> dict[str, float]:
    # In this process the replicas count apart: the ranker's own numbers.
    metrics = graph.rankers[0]._metrics.text(release="r", num_items=1, coverage=None)
    lines = metrics.decode().splitlines()
    return {
        line.split('"')[1]: float(line.rsplit(" ", 1)[1])
        for line in lines
        if line.startswith("nextray_narrations_total{")
    }


def test_texts_are_checked_and_counted(graph: Graph) -> None:
    body = {
        "events": [{"item_id": "item/1"}, {"item_id": "item/44"}],
        "k": 6,
        "explain": True,
        "language": "en",
    }
    texts = [i["explanation"] for i in graph.good("POST", "/v1/recommend", json=body)["items"]]
    generated = [text for text in texts if text["is_generated"]]
    assert generated
    assert {text["text"] for text in generated} == {TRUE}
    assert all(text["evidence"] for text in generated)
    assert "Best!" not in {text["text"] for text in texts}
    with_evidence = sum(bool(text["evidence"]) for text in texts)
    assert narrations(graph) == {
        "accepted": len(generated),
        "refused": min(3, with_evidence) - len(generated),
    }
    plain = graph.good("POST", "/v1/recommend", json={**body, "explain": False})
    assert all(item["explanation"] is None for item in plain["items"])
    assert sum(narrations(graph).values()) == min(3, with_evidence)
