"""Text to embeddings, and the fingerprint of the space they live in."""

from rec.encoders.encoder import Encoder, EncoderConfig, EncoderSpec, load_encoder, resolve_spec

__all__ = ["Encoder", "EncoderConfig", "EncoderSpec", "load_encoder", "resolve_spec"]
