"""A peer in an environment of its own: a child that encodes whenever it is told to."""

import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CHILD = """
import json, sys, time
import numpy as np, torch
torch.set_num_threads(1)
from sentence_transformers import SentenceTransformer, __version__
folder, backend, max_tokens, batch_size, texts_path, out_path = sys.argv[1:7]
options = {} if backend == "torch" else {"model_kwargs": {"export": True}}
if backend == "onnx":
    import onnxruntime
    session = onnxruntime.SessionOptions()
    session.intra_op_num_threads = 1
    options["model_kwargs"] |= {"provider": "CPUExecutionProvider", "session_options": session}
if backend == "openvino":
    options["model_kwargs"] |= {"ov_config": {"INFERENCE_NUM_THREADS": "1", "NUM_STREAMS": "1"}}
model = SentenceTransformer(folder, device="cpu", backend=backend, **options)
model.max_seq_length = int(max_tokens)
texts = json.load(open(texts_path))
def run():
    return model.encode(texts, batch_size=int(batch_size), normalize_embeddings=True,
                        show_progress_bar=False)
np.save(out_path, run())
print(json.dumps({"sentence-transformers": __version__, "torch": torch.__version__}), flush=True)
for _ in sys.stdin:
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    print(json.dumps({"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}),
          flush=True)
"""


class SentenceTransformersPeer:
    """Encode the same texts with the same weights, in another environment."""

    def __init__(
        self,
        python: Path,
        *,
        folder: Path,
        backend: str,
        texts: Sequence[str],
        max_tokens: int,
        batch_size: int,
    ) -> None:
        self._files = tempfile.TemporaryDirectory()
        room = Path(self._files.name)
        (room / "texts.json").write_text(json.dumps(list(texts)), encoding="utf-8")
        words = [str(folder), backend, str(max_tokens), str(batch_size)]
        self._child = subprocess.Popen(
            [str(python), "-c", _CHILD, *words, str(room / "texts.json"), str(room / "out.npy")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(room / "stderr").open("w"),
            text=True,
        )
        self.versions = self._answer()
        self.embeddings: NDArray[np.float32] = np.load(room / "out.npy")

    def run(self) -> dict[str, float]:
        """Return wall and CPU seconds of encoding all texts once."""
        assert self._child.stdin is not None
        self._child.stdin.write("run\n")
        self._child.stdin.flush()
        return self._answer()

    def __enter__(self) -> "SentenceTransformersPeer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._child.kill()
        self._child.wait()
        self._files.cleanup()

    def _answer(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise RuntimeError((Path(self._files.name) / "stderr").read_text()[-1500:])
