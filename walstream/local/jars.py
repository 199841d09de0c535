"""The jars of a server: resolved and fetched by jgo, kept in the user's Maven cache.

jgo walks the POMs; the download is ours, because jgo writes straight to the final name: a start that was killed halfway
would leave a broken jar behind for ever, and two starts at once would read each other's halves.
"""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import requests
from jgo.config import GlobalSettings
from jgo.constants import MAVEN_CENTRAL_URL
from jgo.maven import Artifact, MavenContext, PythonResolver
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from walstream.errors import ServerError

PARALLEL_DOWNLOADS = 8


@dataclass(frozen=True, slots=True)
class Fetched:
    """How far the fetching of a server's jars is.

    Parameters
    ----------
    poms
        Descriptions that were downloaded; their number is not known before.
    jars, of
        Jars that are there, and how many there will be; `of` is 0 while that is not known.
    size
        Bytes downloaded.
    """

    poms: int = 0
    jars: int = 0
    of: int = 0
    size: int = 0


def place(artifact: Artifact) -> Path:
    """Give the path of an artifact in the cache, whether it is there or not."""
    path = artifact.cached_path
    assert path is not None  # Only a context without a cache has none.
    return path


class Downloader(PythonResolver):
    """jgo's resolver with downloads that are there whole or not at all."""

    def __init__(self, tell: Callable[[int, int], None]) -> None:
        super().__init__()
        self._tell = tell
        retry = Retry(total=5, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504))
        self._session = requests.Session()
        self._session.mount("https://", HTTPAdapter(max_retries=retry, pool_maxsize=PARALLEL_DOWNLOADS))

    def download(self, artifact: Artifact) -> Path:
        """Fetch one file into the cache.

        Raises
        ------
        ServerError
            No repository has it, or what came is not what its checksum says.
        """
        path = place(artifact)
        for repository in artifact.context.remote_repos.values():
            url = f"{repository}/{artifact.component.path_prefix.as_posix()}/{artifact.filename}"
            with self._session.get(url, stream=True, timeout=artifact.context.timeout) as answer:
                if answer.status_code == 404:
                    continue
                answer.raise_for_status()
                path.parent.mkdir(parents=True, exist_ok=True)
                # Beside its place, so that the rename stays on one file system and is atomic.
                with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as part:
                    temporary = Path(part.name)
                    try:
                        digest, size = hashlib.sha1(), 0
                        for chunk in answer.iter_content(1 << 16):
                            part.write(chunk)
                            digest.update(chunk)
                            size += len(chunk)
                            self._tell(0, len(chunk))
                        if path.suffix != ".pom":
                            self._check(url, digest.hexdigest())
                        temporary.chmod(0o644)
                        temporary.replace(path)
                    except BaseException:
                        temporary.unlink(missing_ok=True)
                        raise
            self._tell(1, 0)
            return path
        raise ServerError(f"{artifact} is in none of {', '.join(artifact.context.remote_repos.values())}")

    def _check(self, url: str, digest: str) -> None:
        answer = self._session.get(f"{url}.sha1", timeout=30)
        answer.raise_for_status()
        expected = answer.text.split()[0]
        if digest != expected:
            raise ServerError(f"{url} came broken: SHA-1 {digest}, not {expected}; try again")


def classpath(coordinates: Sequence[str], tell: Callable[[Fetched], None] = lambda _: None) -> list[Path]:
    """Give the jars of some Maven coordinates and of all that they depend on, fetching what is not in the cache.

    Parameters
    ----------
    coordinates
        Such as ``org.apache.kafka:kafka_2.13:4.1.0``.
    tell
        Is called, from any thread, whenever there is progress in a download.

    Raises
    ------
    ServerError
        Something could not be fetched.
    """
    lock = threading.Lock()
    poms = jars = total = size = 0

    def count(files: int, length: int) -> None:
        nonlocal poms, jars, size
        with lock:
            size += length
            if total:
                jars += files
            else:
                poms += files
            tell(Fetched(poms, jars, total, size))

    settings = GlobalSettings.load()
    context = MavenContext(
        resolver=Downloader(count),
        repo_cache=settings.repo_cache,
        remote_repos={"central": MAVEN_CENTRAL_URL, **settings.repositories},
        timeout=30,
    )
    try:
        wanted, others = context.resolver.resolve([context.create_dependency(each) for each in coordinates])
        artifacts = [each.artifact for each in (*wanted, *others) if each.scope != "provided"]
        missing = [each for each in artifacts if not place(each).exists()]
        jars, total = len(artifacts) - len(missing), len(artifacts)
        with ThreadPoolExecutor(PARALLEL_DOWNLOADS) as pool:
            list(pool.map(Artifact.resolve, missing))
    except (requests.RequestException, RuntimeError, OSError) as error:
        raise ServerError(f"Cannot fetch {coordinates[0]} from Maven Central: {error}") from error
    return [place(each) for each in artifacts]
