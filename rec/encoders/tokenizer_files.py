"""What a ``tokenizer.json`` may ask for: a tokenizer is a small program, and runs on every text.

One file can make a letter ten million letters, or look for a pattern until the end of days. What
published tokenizers do stays far below these limits.
"""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

from rec.encoders.model_files import MAX_NODES, nodes, read_json
from rec.encoders.tokenizer_patterns import check_pattern
from rec.errors import ConfigError

MAX_ADDED_TOKENS = 20_000
"""Each one is a word to look for in every text; Gemma, which has most, has 6,500."""
MAX_STEPS = 64
"""Of all kinds together: normalizers, pre-tokenizers and what they consist of."""
MAX_GROWTH = 16
"""A text may become so many times longer before it is cut into tokens."""
MAX_REPLACEMENT_BYTES = 64
"""Of one character in a table of replacements; the longest of Unicode's own has 33."""
_CLASSES = re.compile(
    r"^((Bert|Roberta|XLMRoberta|MPNet|DistilBert|Camembert|Electra|GPT2|Llama|Code|Qwen2|GPTNeoX|"
    r"T5|MT5|PreTrained)Tokenizer(Fast)?|TokenizersBackend)$"
)
"""Classes of the families on the list, as ``save_pretrained`` names them."""


def check_tokenizer(folder: Path, flag: str) -> None:
    """Refuse a tokenizer that would take the machine instead of the text.

    Raises:
        ConfigError: it asks for more than any tokenizer needs, or for a class of its own.
    """
    config = read_json(folder / "tokenizer_config.json", flag) or {}
    name = config.get("tokenizer_class")
    if name is not None and (not isinstance(name, str) or not _CLASSES.match(name)):
        raise ConfigError(
            f"{flag}: tokenizer_class {name!r} is of no family on the list, it may want code of "
            "its own: save the tokenizer with save_pretrained"
        )
    _check_count(_largest(config), flag, "tokenizer_config.json")
    for other in ("special_tokens_map.json", "added_tokens.json"):
        _check_count(_largest(read_json(folder / other, flag)), flag, other)
    # A vocabulary has as many values as the file has room for.
    content = read_json(folder / "tokenizer.json", flag, max_nodes=None)
    if content is None:
        return
    where = f"{flag}: tokenizer.json"
    added = content.get("added_tokens") or []
    _check_count(len(added), flag, "tokenizer.json")
    rest = {key: value for key, value in content.items() if key not in ("model", "added_tokens")}
    if sum(1 for _ in nodes(rest)) > MAX_NODES // 10:
        raise ConfigError(f"{where} has more than {MAX_NODES // 10} values beside its vocabulary")
    steps = [*_steps(rest.get("normalizer")), *_steps(rest.get("pre_tokenizer"))]
    if len(steps) > MAX_STEPS:
        raise ConfigError(f"{where} has {len(steps)} steps, expected at most {MAX_STEPS}")
    growth = prod(max(1, len(str(step.get("content", "")))) for step in steps)
    if growth > MAX_GROWTH:
        raise ConfigError(
            f"{where} makes a text up to {growth} times longer, expected at most {MAX_GROWTH}"
        )
    for step in steps:
        _check_replacements(step, where)
        pattern = step.get("pattern")
        if isinstance(pattern, Mapping) and "Regex" in pattern:
            check_pattern(str(pattern["Regex"]), where)


def _check_count(number: int, flag: str, name: str) -> None:
    if number > MAX_ADDED_TOKENS:
        raise ConfigError(
            f"{flag}: {name} adds {number} tokens, expected at most {MAX_ADDED_TOKENS}"
        )


def _largest(value: Any) -> int:
    """Return the length of the longest list or object of a JSON value."""
    return max((len(one) for one in nodes(value) if isinstance(one, (dict, list))), default=0)


def _steps(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every object of a JSON value that names its type."""
    return (one for one in nodes(value) if isinstance(one, dict) and "type" in one)


def _check_replacements(step: Mapping[str, Any], where: str) -> None:
    """Refuse a table of replacements (SentencePiece's ``precompiled_charsmap``) with long ones."""
    table = step.get("precompiled_charsmap")
    if table is None:
        return
    try:
        content = base64.b64decode(table, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise ConfigError(f"{where} has a damaged precompiled_charsmap ({error})") from error
    # The length of a tree, the tree, then the replacements, each with a zero at its end.
    texts = content[4 + int.from_bytes(content[:4], "little") :]
    longest = max(map(len, texts.split(b"\0")), default=0)
    if longest > MAX_REPLACEMENT_BYTES:
        raise ConfigError(
            f"{where} replaces a character by {longest} bytes, expected at most "
            f"{MAX_REPLACEMENT_BYTES}"
        )
