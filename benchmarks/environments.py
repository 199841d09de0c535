"""Quix Streams in a virtual environment of its own: it pins other versions of what walstream needs, too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(".walstream/benchmarks/quix")
REQUIREMENTS = ("quixstreams==3.28.1",)


def quix() -> Path:
    """The environment's Python; it is made when it is asked for first."""
    python = FOLDER.absolute() / "bin" / "python"
    done = FOLDER / "installed"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(FOLDER)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *REQUIREMENTS], check=True)
        done.touch()
    return python
