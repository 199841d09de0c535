"""Where a store's files are, and what a reader has to know of them.

A store is a folder: a database for each partition of the log, named by its number, and beside them `DESCRIPTION`.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from walstream.errors import SinkError, StateMismatch
from walstream.sinks.row import Row

FORMAT = 1
DESCRIPTION = "store.json"


@dataclass(frozen=True, slots=True)
class Description:
    """How rows lie in a store.

    Parameters
    ----------
    partitions
        Of the log, and so databases at most.
    kafka_key
        Template of the records' keys, by which a row's partition is known; None where producers have keys of their own.
    key
        Template of the rows' keys.
    value
        ``json``, or the column that is kept.
    """

    partitions: int
    kafka_key: str | None
    key: str
    value: str

    @classmethod
    def read(cls, folder: Path) -> Description | None:
        """That of a folder, or None where nothing was written yet.

        Raises
        ------
        StateMismatch
            A newer walstream has written it.
        SinkError
            The folder or the file cannot be read.
        """
        try:
            stored = orjson.loads((folder / DESCRIPTION).read_bytes())
            if stored.pop("format") > FORMAT:
                raise StateMismatch(f"{folder} was written by a newer walstream")
            return cls(**stored)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SinkError(f"{folder} cannot be read: {error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise SinkError(f"{folder / DESCRIPTION} is damaged: {error}") from error

    def write(self, folder: Path) -> None:
        """Write it into a folder, whole or not at all."""
        part = folder / f"{DESCRIPTION}.{os.getpid()}"
        with part.open("wb") as file:
            file.write(orjson.dumps({"format": FORMAT} | asdict(self)))
            file.flush()
            os.fsync(file.fileno())
        part.replace(folder / DESCRIPTION)

    def text(self, row: Row) -> bytes | None:
        """What a reader gets of a row; None where it is deleted, or has nothing but nulls."""
        return row.json() if self.value == "json" else row.column()
