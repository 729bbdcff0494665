"""The environment of peers that want an older numpy and pyarrow than ours: made when missing."""

import subprocess
import sys
from pathlib import Path

PEER_PACKAGES = (
    "rectools[torch]==0.19.0", "implicit==0.7.3", "numpy<2", "pyarrow<24", "torch==2.13.0",
)  # fmt: skip


def peer_python(folder: Path) -> Path:
    """Return the interpreter of the peers' environment, made if it is missing."""
    python, stamp = folder / "bin" / "python", folder / "installed"
    if not stamp.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *PEER_PACKAGES], check=True)
        stamp.touch()  # last, so that an install that failed is begun anew
    return python
