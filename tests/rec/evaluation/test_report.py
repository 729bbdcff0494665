import re
from html.parser import HTMLParser
from typing import Literal

import numpy as np
import pytest

from rec.evaluation.evaluate import Evaluation
from rec.evaluation.order_gate import OrderGate
from rec.evaluation.report import render_report
from rec.evaluation.significance import Interval, paired_bootstrap
from rec.evaluation.slicing import Slice

ATTACK = '<script>alert("x")</script>&'
VOID = {"meta", "rect", "line", "wbr"}


class Page(HTMLParser):
    """Check that every element is closed; collect elements, attributes and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def make_evaluation(names: tuple[str, ...] = ("ours", "theirs")) -> Evaluation:
    values = {name: np.linspace(0, 0.5 - 0.2 * row, 20) for row, name in enumerate(names)}
    ours = values[names[0]]
    return Evaluation(
        k=10,
        num_users=20,
        metrics={name: {"ndcg@10": float(ndcg.mean())} for name, ndcg in values.items()},
        user_ndcg=values,
        intervals={name: paired_bootstrap(v, np.zeros(20)) for name, v in values.items()},
        comparisons={name: paired_bootstrap(ours, values[name]) for name in names[1:]},
        slices={
            "0": Slice(num_users=0, ndcg={}),
            "1-5": Slice(num_users=20, ndcg={name: float(v.mean()) for name, v in values.items()}),
        },
    )


def gate(fall: float | None = 0.1) -> OrderGate:
    """Return a gate whose users lose so much by shuffling; ``None``: nobody can tell."""
    low, high = (-0.1, 0.1) if fall is None else (fall, fall)
    return OrderGate(
        num_users=23,
        ndcg={"ordered": 0.2, "shuffled": 0.2 - (fall or 0.0)},
        fall=Interval(
            difference=fall or 0.0, low=low, high=high, ratio=None, ratio_low=None, ratio_high=None
        ),
    )


def render(
    evaluation: Evaluation | None = None,
    *,
    language: Literal["en", "zh"] = "en",
    order_gate: OrderGate | None = None,
) -> str:
    return render_report(
        evaluation or make_evaluation(),
        title="Release 7",
        details={"cut_ms": 12, "settings": {"width": 64}},
        order_gate=order_gate,
        language=language,
    )


def test_page_is_well_formed_and_needs_nothing_from_outside() -> None:
    html = render(order_gate=gate())
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    names = {name for name, _ in page.attributes}
    assert not {"src", "href"} & names
    assert not [name for name in names if name.startswith("on")]
    assert "http" not in html.replace("http-equiv", "")
    assert "url(" not in html


@pytest.mark.parametrize("language", ["en", "zh"])
def test_everything_given_is_escaped(language: Literal["en", "zh"]) -> None:
    html = render_report(
        make_evaluation((ATTACK, f"other{ATTACK}")),
        title=ATTACK,
        details={ATTACK: ATTACK, "deep": {ATTACK: [ATTACK]}},
        order_gate=gate(),
        language=language,
    )
    page = Page(html)
    assert "script" not in page.tags
    assert page.text.count("<script>") >= 8


def test_plot_has_a_bar_a_model_as_long_as_its_ndcg() -> None:
    html = render()
    widths = [float(width) for width in re.findall(r'<rect[^>]* width="([\d.]+)"', html)]
    assert len(widths) == 2
    assert widths[0] / widths[1] == pytest.approx(0.25 / 0.15, rel=1e-3)
    assert html.count('class="whisker"') == 2
    assert html.count('class="bar ours"') == 1


def test_plot_speaks_its_title_and_every_value() -> None:
    html = render()
    assert dict(Page(html).attributes)["aria-labelledby"] == "plot-title"
    assert '<title id="plot-title">NDCG@10 by model' in html
    description = re.findall(r'<desc id="plot-values">(.*)</desc>', html)
    assert len(description) == 1
    assert re.fullmatch(r"ours: 0\.2500 \[.+\]; theirs: 0\.1500 \[.+\]", description[0])


def test_tables_show_metrics_slices_verdicts_and_details() -> None:
    text = Page(render()).text
    for expected in (
        "0.2500",
        "0.1500",
        "1.67×",
        "better",
        "0 (0)",
        "1-5 (20)",
        "–",
        "cut_ms",
        '{"width": 64}',
    ):
        assert expected in text


@pytest.mark.parametrize(
    ("fall", "verdict"),
    [(0.1, "reads the sequence"), (0.0, "bag model"), (None, "23 users are too few")],
)
def test_order_gate_says_what_it_has_found(fall: float | None, verdict: str) -> None:
    html = render(order_gate=gate(fall))
    assert verdict in html
    assert "over 23 users: " in html


def test_order_gate_that_was_not_asked_is_left_out() -> None:
    assert "Order gate" not in render()


def test_chinese_page_speaks_chinese_and_names_no_english_words() -> None:
    html = render(language="zh", order_gate=gate())
    text = Page(html).text.split("</style>")[-1]
    assert '<html lang="zh-CN">' in html
    assert "顺序检验" in text
    assert not [
        word for word in ("model", "users", "better", "shuffled", "history") if word in text
    ]


def test_models_without_a_hit_are_drawn_as_empty_bars() -> None:
    zeros = np.zeros(3)
    none = paired_bootstrap(zeros, zeros)
    evaluation = Evaluation(
        k=10,
        num_users=3,
        metrics={"ours": {"ndcg@10": 0.0}, "theirs": {"ndcg@10": 0.0}},
        user_ndcg={"ours": zeros, "theirs": zeros},
        intervals={"ours": none, "theirs": none},
        comparisons={"theirs": none},
        slices={},
    )
    html = render(evaluation)
    assert html.count('width="0.0"') == 2
    assert "no clear difference" in html
    assert "nan" not in html.lower().replace("nanum", "")
