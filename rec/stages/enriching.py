"""Enrichment: generated fields beside the catalog, each with who made it; never over the source.

Rules quote the item; a language model writes, and where its words do not stand in the source the
rules' are taken. Results are kept by the hash of the source and the generator's fingerprint: a
second run does nothing, a killed one goes on, and one changed title costs one item.
"""

import json
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import xxhash

from rec.artifacts import (
    Artifact,
    config_hash,
    find_artifact,
    latest_artifact,
    point_latest,
    read_artifact,
    write_artifact,
)
from rec.data.enrichment import (
    NUM_TAGS,
    RULES_VERSION,
    Enrichment,
    Source,
    enrich_by_rules,
    is_supported,
)
from rec.data.items import load_items
from rec.encoders.prompts import GENERATED_FIELDS
from rec.errors import ArtifactError, ConfigError
from rec.spread import Spread, in_process

ROOM = "enrichments"
ENRICHMENT_FILE = "enrichment.parquet"
RULES = "rules"
PROMPT_VERSION = 1
_PROMPTS: Mapping[str, tuple[str, str]] = {
    "summary": (
        "Item:\n{source}\n\nOne short sentence that sums up the item in its own words:\n",
        "物品：\n{source}\n\n用物品自己的词语写一句简短的概括：\n",
    ),
    "tags": (
        "Item:\n{source}\n\nFive words of the item, separated by commas:\n",
        "物品：\n{source}\n\n物品中的五个词，用逗号分隔：\n",
    ),
    "sentiment": (
        "Text:\n{source}\n\nIs the feeling of the text positive, negative or neutral? It is",
        "文本：\n{source}\n\nIs the feeling of the text positive, negative or neutral? It is",
    ),
}
_SENTIMENTS = ("positive", "negative", "neutral")
_NEW_TOKENS = {"summary": 40, "tags": 24, "sentiment": 4}
_BLOCK_ITEMS = {"rules": 2_000, "model": 16}
"""Items of one task: what a killed worker loses."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EnrichmentConfig:
    """Say who writes the generated fields of the items."""

    generator: str = RULES
    """``rules``, or a causal language model: ``package:NAME``, a folder, or a hub name."""
    batch_size: int = 8
    """Items that a language model continues at once; raising it costs memory."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"--enrichment.batch-size must be >= 1, got {self.batch_size}")


def enrich(
    workspace: Path, *, config: EnrichmentConfig, spread: Spread = in_process, num_threads: int = 1
) -> tuple[Artifact, bool]:
    """Return the generated fields of the newest catalog, and whether they were there.

    Args:
        workspace: root of the artifacts.
        config: who writes.
        spread: who does the work.
        num_threads: torch threads of one worker.

    Raises:
        ArtifactError: nothing was prepared.
        ConfigError: the generator cannot be loaded.
    """
    catalog = latest_artifact(workspace, "catalog", made_by="prepare")
    generator = _generator(config)
    parents = {"catalog": catalog.name}
    found = find_artifact(workspace, ROOM, config_hash(ROOM, generator, parents))
    if found is not None:
        point_latest(workspace, ROOM, found.name)
        return found, True
    items = load_items(catalog.path)
    sources = _sources(items)
    keys = [_key(source) for source in sources]
    wanted = dict(zip(keys, sources, strict=True))
    name = config_hash(ROOM, generator, {})
    store = workspace / ROOM / "store" / name
    store.mkdir(parents=True, exist_ok=True)
    missing = sorted(wanted.keys() - _read_store(store).keys())
    size = _BLOCK_ITEMS["rules" if config.generator == RULES else "model"]
    blocks = [
        [(key, wanted[key]) for key in missing[start : start + size]]
        for start in range(0, len(missing), size)
    ]
    make = _worker_factory(config, store, num_threads)
    list(spread(make, blocks, label="enriching items"))
    made = _read_store(store)
    rows = [made[key] for key in keys]
    with write_artifact(workspace, ROOM, config=generator, parents=parents) as draft:
        table = items.select("item_index", "item_id").hstack(
            pl.DataFrame(
                [{f"generated_{k}": v for k, v in row.items()} for row in rows],
                schema_overrides={"generated_tags": pl.List(pl.String)},
                infer_schema_length=None,
            )
        )
        table.write_parquet(draft.path / ENRICHMENT_FILE, compression="zstd")
        draft.counts |= {
            "items": items.height,
            "generated": len(missing),
            "cached": len(wanted) - len(missing),
            "written_by": {
                field: dict(sorted(Counter(str(row[f"{field}_by"]) for row in rows).items()))
                for field in _PROMPTS
            },
        }
        draft.details |= {"prompts": {k: list(v) for k, v in _PROMPTS.items()}}
    artifact = find_artifact(workspace, ROOM, config_hash(ROOM, generator, parents))
    assert artifact is not None
    return artifact, False


def with_generated_fields(
    workspace: Path, items: pl.DataFrame, *, catalog: str, template: str
) -> tuple[pl.DataFrame, dict[str, str]]:
    """Return a catalog with the generated columns that a template names, and their artifact.

    Args:
        workspace: root of the artifacts.
        items: the catalog.
        catalog: name of its artifact.
        template: item to text.

    Raises:
        ArtifactError: the template names such a field, and the catalog was not enriched.
    """
    if not any(f"{{{field}}}" in template for field in GENERATED_FIELDS):
        return items, {}
    pointer = workspace / ROOM / "latest"
    made = (
        read_artifact(workspace / ROOM / pointer.read_text(encoding="utf-8").strip())
        if pointer.is_file()
        else None
    )
    if made is None or made.parents["catalog"] != catalog:
        raise ArtifactError(
            f"--encoder.template {template!r} names generated fields, this catalog has none: "
            f"run `python -m jobs.enrich RECIPE --workspace {workspace}` first"
        )
    table = pl.read_parquet(made.path / ENRICHMENT_FILE, columns=["item_id", *GENERATED_FIELDS])
    return items.join(table, on="item_id", how="left", maintain_order="left"), {ROOM: made.name}


def _generator(config: EnrichmentConfig) -> dict[str, Any]:
    """Return the provenance of the generated fields: what they are named by."""
    if config.generator == RULES:
        return {"generator": RULES, "rules_version": RULES_VERSION}
    from rec.encoders.language_model import language_model_fingerprint  # loads transformers

    return {
        "generator": Path(config.generator).name,
        "fingerprint": language_model_fingerprint(config.generator),
        "prompt_version": PROMPT_VERSION,
        "rules_version": RULES_VERSION,
    }


def _worker_factory(
    config: EnrichmentConfig, store: Path, num_threads: int
) -> Callable[[], Callable[[Sequence[tuple[str, Source]]], int]]:
    def make() -> Callable[[Sequence[tuple[str, Source]]], int]:
        write: Callable[[Sequence[Source]], list[Enrichment]] = _by_rules
        if config.generator != RULES:
            import torch  # only where a model runs

            from rec.encoders.language_model import LanguageModel

            torch.set_num_threads(num_threads)
            model = LanguageModel(config.generator, batch_size=config.batch_size)
            write = lambda sources: write_by_model(sources, model.continue_texts)  # noqa: E731

        def work(block: Sequence[tuple[str, Source]]) -> int:
            made = write([source for _, source in block])
            rows = [
                {"key": key, **asdict(fields)} for (key, _), fields in zip(block, made, strict=True)
            ]
            name = xxhash.xxh3_128_hexdigest("".join(key for key, _ in block).encode())
            aside = store / f".{name}.{uuid.uuid4().hex[:8]}"
            aside.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
            aside.replace(store / f"{name}.json")
            return len(rows)

        return work

    return make


def _by_rules(sources: Sequence[Source]) -> list[Enrichment]:
    return [enrich_by_rules(source) for source in sources]


def write_by_model(
    sources: Sequence[Source], continue_texts: Callable[..., list[str]]
) -> list[Enrichment]:
    """Return the fields that a language model wrote, and the rules' where its do not hold.

    Args:
        sources: the items.
        continue_texts: prompts and ``max_new_tokens`` to continuations.
    """
    made = _by_rules(sources)
    answers = {
        field: continue_texts(
            [
                prompts[fields.language == "zh"].format(source=source.whole)
                for source, fields in zip(sources, made, strict=True)
            ],
            max_new_tokens=_NEW_TOKENS[field],
        )
        for field, prompts in _PROMPTS.items()
    }
    checked: list[Enrichment] = []
    for number, (source, fields) in enumerate(zip(sources, made, strict=True)):
        summary = answers["summary"][number].strip().partition("\n")[0].strip()
        if is_supported(summary, source):
            fields = replace(fields, summary=summary, summary_by="model")
        tags = _read_tags(answers["tags"][number], source)
        if tags:
            fields = replace(fields, tags=tags, tags_by="model")
        words = answers["sentiment"][number].lower().replace(".", " ").split()
        said = next((word for word in words if word in _SENTIMENTS), None)
        # The words of the source are evidence; a model that contradicts them is not believed.
        if said is not None and {said, fields.sentiment} != {"positive", "negative"}:
            fields = replace(fields, sentiment=said, sentiment_by="model")
        checked.append(fields)
    return checked


def _read_tags(answer: str, source: Source) -> tuple[str, ...]:
    line = answer.strip().partition("\n")[0].replace("，", ",").replace("、", ",")
    tags = [tag.strip(" .。\"'").lower() for tag in line.split(",")]
    return tuple(dict.fromkeys(tag for tag in tags if tag and is_supported(tag, source)))[:NUM_TAGS]


def _sources(items: pl.DataFrame) -> list[Source]:
    return [
        Source(title=title, text=text, category=tuple(category), tags=tuple(tags))
        for title, text, category, tags in items.select(
            "title", "text", "category", "tags"
        ).iter_rows()
    ]


def _key(source: Source) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(asdict(source), ensure_ascii=False).encode())


def _read_store(store: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(store.glob("*.json")):
        for row in json.loads(path.read_text(encoding="utf-8")):
            found[row.pop("key")] = row
    return found
