"""What every encoder is to those who use one.

Shapes: N texts, D width of the embedding.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Encoder(Protocol):
    """Turn texts into embeddings of one space.

    Attributes:
        fingerprint: hash of everything that fixes the space; equal means comparable.
        width: D.
        num_truncated: texts that were cut so far.
        num_tokens: tokens read so far.
    """

    @property
    def fingerprint(self) -> str: ...  # noqa: D102 - the class docstring lists it

    @property
    def width(self) -> int: ...  # noqa: D102

    @property
    def num_truncated(self) -> int: ...  # noqa: D102

    @property
    def num_tokens(self) -> int: ...  # noqa: D102

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return L2-normalised float32 ``(N, D)``; independent of batch and padding."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the tokens that each text would need, uncut, with prefix and special ones."""
        ...
