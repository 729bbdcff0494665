"""Text to embeddings, and the fingerprint of the space they live in."""

from rec.encoders.choosing import Choice, choose_encoder
from rec.encoders.encoder import EncoderConfig, EncoderSpec, fingerprint_of, load_encoder
from rec.encoders.protocol import Encoder

__all__ = [
    "Choice",
    "Encoder",
    "EncoderConfig",
    "EncoderSpec",
    "choose_encoder",
    "fingerprint_of",
    "load_encoder",
]
