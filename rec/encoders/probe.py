"""The probe: which backend is fastest here and still says what torch says.

Speed and accuracy depend on the processor, the weights and the texts, so both are measured on a
sample of the catalog, never assumed: a format that is three times as fast may turn real embeddings
by half a right angle. What a workspace has once decided stays, because another number format is
another fingerprint and every text would be encoded again.
"""

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rec.artifacts import write_json
from rec.encoders.backends import BackendName, available_backends
from rec.encoders.encoder import EncoderConfig, EncoderSpec, fingerprint_of, load_encoder
from rec.encoders.transformer import default_device

MIN_COSINE = 0.995
"""Least agreement with torch in float32 of the worst text of the sample."""
MIN_GAIN = 1.1
"""Speed over torch below which leaving the reference is not worth it: timings vary by as much."""
SAMPLE_TEXTS = 96
"""Three batches: a second of work, and the worst of them is a fair picture of the tail."""
MIN_TEXTS = 256
"""Fewer texts are encoded sooner than probed."""
_ROUNDS = 2
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """Hold what one backend did on the sample."""

    backend: BackendName
    texts_per_s: float
    """Per CPU-second on a CPU, which other programs do not disturb; per second on a GPU."""
    lowest_cosine: float
    """To torch in float32, of the text where it is lowest."""
    error: str | None = None
    """Why it could not be measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """Hold a workspace's backend and what it was chosen for; a JSON file beside the store."""

    backend: BackendName
    measurements: tuple[Measurement, ...]

    @property
    def texts_per_s(self) -> float | None:
        """Return the measured speed of the backend, if it was measured."""
        speeds = [m.texts_per_s for m in self.measurements if m.backend == self.backend]
        return speeds[0] if speeds else None


Probe = Callable[[EncoderSpec, Sequence[BackendName], Sequence[str]], list[Measurement]]


def settle_backend(
    config: EncoderConfig,
    spec: EncoderSpec,
    texts: Sequence[str],
    *,
    memory: Path,
    probe: Probe | None = None,
) -> tuple[EncoderSpec, Decision]:
    """Return the specification with its backend settled, and how that came.

    A backend asked for by name is used, and measured beside torch: a warning says so if it strays.

    Args:
        config: what was asked for.
        spec: the encoder, still on torch where the configuration says ``auto``.
        texts: distinct texts of the catalog.
        memory: folder of the decisions of a workspace.
        probe: measures; in this process if absent.
    """
    if spec.kind != "transformer":
        return spec, Decision(backend="torch", measurements=())
    reference = dataclasses.replace(spec, backend="torch")
    wanted = config.backend
    path = memory / f"{fingerprint_of(reference)}-{wanted}.json"
    installed = available_backends(device=default_device())
    known = _read(path)
    if known is not None and (wanted != "auto" or known.backend in installed):
        return dataclasses.replace(spec, backend=known.backend), known
    if known is not None:
        _log.warning("encoder backend %s is not installed any more: probing again", known.backend)
    asked: tuple[BackendName, ...] = installed if wanted == "auto" else ("torch", wanted)
    measurements: list[Measurement] = []
    if len(texts) >= MIN_TEXTS and set(asked) != {"torch"}:
        measurements = (probe or measure_backends)(reference, asked, sample(texts))
    decision = Decision(
        backend=choose_backend(measurements) if wanted == "auto" else wanted,
        measurements=tuple(measurements),
    )
    for measured in measurements:
        if measured.backend == wanted != "torch" and measured.lowest_cosine < MIN_COSINE:
            _log.warning(
                "--encoder.backend %s strays from torch: cosine %.4f, expected >= %.3f",
                wanted,
                measured.lowest_cosine,
                MIN_COSINE,
            )
    write_json(path, decision)
    return dataclasses.replace(spec, backend=decision.backend), decision


def choose_backend(measurements: Sequence[Measurement]) -> BackendName:
    """Return the fastest backend that agrees with torch; torch if none gains enough.

    >>> torch = Measurement(backend="torch", texts_per_s=100, lowest_cosine=1)
    >>> fast = Measurement(backend="torch-bf16", texts_per_s=200, lowest_cosine=0.9999)
    >>> wrong = Measurement(backend="onnx", texts_per_s=900, lowest_cosine=0.89)
    >>> choose_backend([torch, fast, wrong])
    'torch-bf16'
    """
    reference = [m.texts_per_s for m in measurements if m.backend == "torch"]
    good = [
        m
        for m in measurements
        if m.error is None
        and m.lowest_cosine >= MIN_COSINE
        and m.texts_per_s >= MIN_GAIN * reference[0]
    ]
    return max(good, key=lambda m: m.texts_per_s).backend if good else "torch"


def measure_backends(
    spec: EncoderSpec, backends: Sequence[BackendName], texts: Sequence[str]
) -> list[Measurement]:
    """Return one measurement a backend, in their order; torch must be the first."""
    assert backends[0] == "torch"
    read_clock = time.perf_counter if default_device() == "cuda" else time.process_time
    encode: dict[BackendName, Callable[[Sequence[str]], NDArray[np.float32]]] = {}
    errors: dict[BackendName, str] = {}
    embeddings: dict[BackendName, NDArray[np.float32]] = {}
    for name in backends:
        try:
            encode[name] = load_encoder(dataclasses.replace(spec, backend=name)).encode
            embeddings[name] = encode[name](texts)  # the first pass warms up and is not timed
        except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
            encode.pop(name, None)
            errors[name] = " ".join(str(error).split())[:200]
            _log.warning("encoder backend %s does not run here: %s", name, errors[name])
    seconds = dict.fromkeys(encode, float("inf"))
    for _ in range(_ROUNDS):  # in turn, so that a disturbance does not meet one backend only
        for name, run in encode.items():
            start = read_clock()
            run(texts)
            seconds[name] = min(seconds[name], read_clock() - start)
    return [
        Measurement(backend=name, texts_per_s=0, lowest_cosine=0, error=errors[name])
        if name in errors
        else Measurement(
            backend=name,
            texts_per_s=round(len(texts) / max(seconds[name], 1e-9), 1),
            lowest_cosine=round(float((embeddings[name] * embeddings["torch"]).sum(1).min()), 6),
        )
        for name in backends
    ]


def sample(texts: Sequence[str]) -> list[str]:
    """Return an even sample over the lengths, the same for the same texts."""
    ordered = sorted(texts, key=lambda text: (len(text), text))
    step = max(1, len(ordered) // SAMPLE_TEXTS)
    return ordered[step // 2 :: step][:SAMPLE_TEXTS]


def _read(path: Path) -> Decision | None:
    if not path.is_file():
        return None
    values = json.loads(path.read_text(encoding="utf-8"))
    measurements = tuple(Measurement(**row) for row in values["measurements"])
    return Decision(backend=values["backend"], measurements=measurements)
