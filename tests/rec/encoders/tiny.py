"""Checkpoints of random weights that load in milliseconds."""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")


def write_bert(folder: Path, words: Sequence[str], *, dropout: float = 0.0, width: int = 16) -> str:
    """Write a two-layer BERT that knows ``words``; return its folder as a model name."""
    torch.manual_seed(0)
    model = BertModel(
        BertConfig(
            vocab_size=len(SPECIAL) + len(words),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=2,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
    )
    # Untrained weights start near zero: let every part matter.
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *words))}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    plain.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=plain, unk_token="[UNK]", eos_token="[SEP]", pad_token="[PAD]"
    ).save_pretrained(folder)
    return str(folder)
