"""Backends: what computes a transformer's token states, and in which number format.

torch in float32 is the reference. The others trade precision or generality for speed and are used
only where a probe on real texts shows that they agree with it (``rec.encoders.probe``).

Shapes: B texts of a batch, T tokens, D width.
"""

import inspect
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rec.errors import ConfigError

BackendName = Literal["torch", "torch-bf16", "onnx", "openvino"]
Backend = Callable[[Tensor, Tensor], Tensor]
"""Token ids and mask, int64 ``(B, T)`` -> states ``(B, T, D)``."""

_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxruntime"),
    "openvino": ("openvino",),
}
_OWN_POSITIONS = frozenset({"roberta", "xlm-roberta", "mpnet"})
"""Families that count positions from the padding token themselves."""


def dtype_of(backend: BackendName) -> str:
    """Return the number format of a backend, which is part of the fingerprint.

    OpenVINO computes in bfloat16 where the processor can and in float32 elsewhere; both lie within
    the rounding of bfloat16, the wider of the two.

    >>> dtype_of("torch"), dtype_of("openvino")
    ('float32', 'bfloat16')
    """
    return "float32" if backend in ("torch", "onnx") else "bfloat16"


def available_backends(*, device: str) -> tuple[BackendName, ...]:
    """Return the backends whose packages are installed, the reference first."""
    names: list[BackendName] = ["torch", "torch-bf16"]
    if device == "cpu":
        names += [name for name in ("onnx", "openvino") if not _missing(name)]
    return tuple(names)


def make_backend(name: BackendName, model: nn.Module, *, device: str) -> Backend:
    """Return a model's forward pass on a backend.

    Raises:
        ConfigError: its packages are not installed.
    """
    missing = _missing(name)
    if missing:
        raise ConfigError(
            f"--encoder.backend {name}: package {missing[0]} is not installed: "
            f"pip install 'nextray[{name}]', or choose another backend"
        )
    if name == "onnx":
        return _onnx(model)
    if name == "openvino":
        return _openvino(model)
    dtype = torch.bfloat16 if name == "torch-bf16" else torch.float32
    model = model.to(device=device, dtype=dtype).eval()
    return lambda ids, mask: token_states(model, ids, mask)


def token_states(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """Return a model's states ``(B, T, D)`` of token ids and mask, int64 ``(B, T)``."""
    extra = {}
    if _takes_positions(model):
        # Positions count real tokens only, so that padding may stand on either side.
        extra["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    states: Tensor = model(input_ids=ids, attention_mask=mask, **extra).last_hidden_state
    return states


class _States(nn.Module):
    """Reduce a model to ids and mask -> states, which is all that an exporter has to see."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states: Tensor = self.model(
            input_ids=input_ids, attention_mask=attention_mask
        ).last_hidden_state
        return states


def _onnx(model: nn.Module) -> Backend:
    import onnxruntime

    names = ["input_ids", "attention_mask"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with TemporaryDirectory() as folder, _tracing():
        graph = Path(folder) / "model.onnx"
        # The older exporter: the newer one takes six times as long for the same graph.
        torch.onnx.export(
            _States(model.float().eval()),
            _example(),
            graph,
            input_names=names,
            output_names=["states"],
            dynamic_axes={name: {0: "batch", 1: "tokens"} for name in (*names, "states")},
            opset_version=17,
            dynamo=False,
        )
        session = onnxruntime.InferenceSession(str(graph), options)

    def forward(ids: Tensor, mask: Tensor) -> Tensor:
        feed = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
        return torch.from_numpy(session.run(None, feed)[0])

    return forward


def _openvino(model: nn.Module) -> Backend:
    import openvino

    example = dict(zip(("input_ids", "attention_mask"), _example(), strict=True))
    with _tracing():
        graph = openvino.convert_model(_States(model.float().eval()), example_input=example)
    options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "NUM_STREAMS": 1}
    request = openvino.Core().compile_model(graph, "CPU", options).create_infer_request()
    lock = threading.Lock()  # a request holds one inference at a time

    def forward(ids: Tensor, mask: Tensor) -> Tensor:
        feed = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
        with lock:
            return torch.from_numpy(request.infer(feed)[0].copy())

    return forward


@contextmanager
def _tracing() -> Iterator[None]:
    """Follow a model once to export it, without its warnings about branches on shapes.

    Those branches depend on things that no call changes; the probe compares the outcome.
    """
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _example() -> tuple[Tensor, Tensor]:
    return torch.ones(2, 8, dtype=torch.long), torch.ones(2, 8, dtype=torch.long)


def _takes_positions(model: nn.Module) -> bool:
    config: Any = model.config
    parameters = inspect.signature(model.forward).parameters
    return "position_ids" in parameters and config.model_type not in _OWN_POSITIONS


def _missing(name: str) -> list[str]:
    return [package for package in _PACKAGES.get(name, ()) if find_spec(package) is None]
