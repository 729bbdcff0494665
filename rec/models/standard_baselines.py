"""The baselines that stand in every table; many logs are won by one of them."""

import numpy as np
from numpy.typing import NDArray

from rec.data.sequences import Sequences
from rec.models.baselines import (
    ItemKNN,
    Markov,
    PersonalFrequency,
    Popularity,
    ScoredLists,
    Scorer,
    count_items,
)
from rec.models.ease import EASE
from rec.models.factorization import ImplicitALS
from rec.models.nearest import ContentKNN, WindowedKNN


def fit_baselines(train: Sequences, *, text: NDArray[np.float32]) -> list[ScoredLists]:
    """Return the baselines fitted on ``train``, each backed by popularity.

    Args:
        train: what may be learnt from.
        text: float32 ``(V, D)``, the encoder's item embeddings.
    """
    scorers: list[Scorer] = [
        Popularity(train),
        Popularity(train, last_days=7),
        ItemKNN(train),
        WindowedKNN(train),
        Markov(train),
        PersonalFrequency(train),
        EASE(train),
        ImplicitALS(train),
        ContentKNN(text),
    ]
    return [ScoredLists(scorer, backing=count_items(train)) for scorer in scorers]
