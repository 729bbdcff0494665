"""Sections of a report about whom the lists serve: by known events, popularity and language."""

from collections.abc import Mapping, Sequence
from html import escape

from rec.evaluation.bilingual import LanguagePair
from rec.evaluation.popularity_bias import PopularityBias
from rec.evaluation.prefixes import PrefixCurve
from rec.evaluation.report_html import section, table
from rec.evaluation.report_plots import draw_points

Words = Mapping[str, str]


def prefix_section(curve: PrefixCurve, name: str, words: Words) -> str:
    """Return NDCG by number of known events: a plot of one model and a table of all."""
    values = curve.ndcg[name]
    plot = draw_points(
        [(float(place), value) for place, value in enumerate(values)],
        labels=[f"{value:.4f}" for value in values],
        ticks=[str(known) for known in curve.known],
        marked=[True] * len(values),
        axes=(words["known"], words["ndcg"]),
        caption=words["prefix_caption"].replace("{users}", f"{curve.num_users:,}"),
        name="prefixes",
    )
    rows = [[model, *(f"{value:.4f}" for value in line)] for model, line in curve.ndcg.items()]
    header = [words["model"], *map(str, curve.known)]
    return section(words["prefixes"], f"{plot}\n{table(header, rows, highlight=name)}")


def bias_section(bias: PopularityBias, name: str, words: Words) -> str:
    """Return what is shown against what is asked for, by popularity."""
    shown = bias.places[name]
    labels = [words["cold"], *(str(place) for place in range(1, len(shown)))]
    if len(shown) == 10 or not bias.items:  # no item without an event
        labels = [str(place) for place in range(1, len(shown) + 1)]
    plot = draw_points(
        list(zip(bias.targets, shown, strict=True)),
        labels=labels,
        marked=[place == len(shown) - 1 for place in range(len(shown))],
        axes=(words["asked_share"], words["shown_share"]),
        caption=words["bias_caption"],
        name="popularity-bias",
        is_line=False,
        diagonal=True,
    )
    header = [words["model"], *(f"{a} ({n:,})" for a, n in zip(labels, bias.items, strict=True))]
    rows = [[words["asked_for"], *_shares(bias.targets), "–"]]
    rows += [
        [model, *_shares(line), f"{bias.excess(model):.3f}"] for model, line in bias.places.items()
    ]
    return section(
        words["bias"], f"{plot}\n{table([*header, words['excess']], rows, highlight=name)}"
    )


def language_section(pairs: Sequence[LanguagePair], name: str, words: Words) -> str:
    """Return how users of each language find items of each."""
    models = list(pairs[0].ndcg)
    header = [words["pair"], words["num_users"], *models, words["pair_share"]]
    rows = [
        [
            f"{words[pair.history]} → {words[pair.target]}",
            f"{pair.num_users:,}",
            *(f"{pair.ndcg[model]:.4f}" for model in models),
            f"{pair.share[name]:.3f}",
        ]
        for pair in pairs
    ]
    text = f"<p>{escape(words['pair_note'])}</p>"
    return section(words["pairs"], f"{table(header, rows)}\n{text}")


def _shares(values: Sequence[float]) -> list[str]:
    return [f"{value:.3f}" for value in values]
