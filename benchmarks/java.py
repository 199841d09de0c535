"""The contender in Java: its jars, and its class, compiled where the machine has a compiler."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from walstream.local.jars import classpath
from walstream.local.kafka import VERSION

SOURCE = Path(__file__).parent / "java" / "Router.java"
COORDINATES = (f"org.apache.kafka:kafka-streams:{VERSION}", "org.slf4j:slf4j-nop:1.7.36")


def build(folder: Path) -> list[str] | None:
    """Compile it, and return the start of a command that runs it; None where there is no Java compiler."""
    javac, java = shutil.which("javac"), shutil.which("java")
    if javac is None or java is None:
        return None
    jars = ":".join(map(str, classpath(COORDINATES)))
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([javac, "-cp", jars, "-d", str(folder), str(SOURCE)], check=True)
    # The parallel collector gives more records/s here than the default one.
    return [java, "-Xmx1g", "-XX:+UseParallelGC", "-cp", f"{folder}:{jars}", "Router"]
