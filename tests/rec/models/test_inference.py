"""Embeddings of histories are read where they lie, whatever stands in the tokens."""

import torch

from rec.models.inference import _read


def test_tokens_read_what_one_table_would_hold() -> None:
    torch.manual_seed(0)
    items, queries = torch.randn(5, 3), torch.randn(2, 3)
    tokens = torch.tensor([[0, 0, 1, 5], [6, 7, 3, 1]])
    table = torch.cat([torch.zeros(1, 3), items, queries])
    assert torch.equal(_read(tokens, items, queries), table[tokens])
    plain = tokens[:1]
    assert torch.equal(_read(plain, items, torch.zeros(0, 3)), table[plain])
