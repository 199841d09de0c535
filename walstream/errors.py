"""What can go wrong, as one tree.

::

    WalstreamError
    ├── ConfigurationError        a file or a setting says something that cannot be
    ├── MissingExtra              a feature's library is not installed
    ├── RecordRefused             a record that cannot be understood; it belongs in a DLQ
    ├── NotDurable                a write is not known to be durable
    ├── TopicMismatch             a topic is missing, or not what the namespace needs
    ├── Unreachable               a server does not answer, or refuses what we ask
    ├── ServerError               a local server did not do what it should
    ├── WorkerFailed              a supervised process failed again and again
    ├── SinkError                 a sink cannot be opened or broke its protocol
    └── EngineError               the engine cannot go on
        ├── Fenced                another worker has taken the partition over
        ├── StateMismatch         stored state is of a newer format, or belongs to something else
        ├── LostRange             the next position is below the topic's start: records are gone
        ├── Unreadable            records that no decoder can read
        ├── Held                  a stretch of work cannot be finished now; it is done again
        └── Stuck                 no progress though there is work
"""

from __future__ import annotations


class WalstreamError(Exception):
    """Base of everything that walstream raises on purpose."""


class ConfigurationError(WalstreamError):
    """A file or a setting says something that cannot be.

    Parameters
    ----------
    message
        What is wrong, in one sentence.
    file, line
        Where, if it is in a file; lines count from 1.
    remedy
        What the reader can do about it.
    """

    def __init__(
        self, message: str, *, file: str | None = None, line: int | None = None, remedy: str | None = None
    ) -> None:
        self.message, self.file, self.line, self.remedy = message, file, line, remedy
        where = "" if file is None else f"{file}:{line}: " if line is not None else f"{file}: "
        super().__init__(f"{where}{message}" + (f"\n  remedy: {remedy}" if remedy else ""))


class MissingExtra(WalstreamError):
    """A feature's library is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        self.feature, self.extra = feature, extra
        super().__init__(f'{feature} needs more libraries: pip install "walstream[{extra}]"')


class RecordRefused(WalstreamError):
    """A record that cannot be understood; it belongs in a DLQ.

    Parameters
    ----------
    code
        A short word for counting and filtering, such as ``missing-attribute``.
    reason
        What is wrong with this record, in one sentence.
    """

    def __init__(self, code: str, reason: str) -> None:
        self.code, self.reason = code, reason
        super().__init__(f"{code}: {reason}")


class NotDurable(WalstreamError):
    """A write is not known to be durable."""


class TopicMismatch(WalstreamError):
    """A topic is missing, or not what the namespace needs."""


class Unreachable(WalstreamError):
    """A server does not answer, or refuses what we ask."""


class ServerError(WalstreamError):
    """A local server did not do what it should."""


class WorkerFailed(WalstreamError):
    """A supervised process failed again and again, or did not stop in time."""


class SinkError(WalstreamError):
    """A sink cannot be opened or broke its protocol."""


class EngineError(WalstreamError):
    """The engine cannot go on."""


class Fenced(EngineError):
    """Another worker has taken the partition over."""


class StateMismatch(EngineError):
    """Stored state is of a newer format, or belongs to something else."""


class LostRange(EngineError):
    """The next position is below the topic's start: records are gone."""


class Unreadable(EngineError):
    """Records that cannot be decoded.

    Parameters
    ----------
    where
        Topic and partition.
    first, last
        The offsets among which they are.
    cause
        What the decoder said.
    remedy
        What the reader can do about it.
    """

    def __init__(self, where: str, first: int, last: int, cause: Exception, remedy: str = "") -> None:
        self.where, self.first, self.last, self.cause = where, first, last, cause
        offsets = f"offset {first}" if first == last else f"offsets {first} to {last}"
        super().__init__(
            f"{where}: {offsets} cannot be read ({type(cause).__name__}: {cause}). Nothing is skipped."
            + (f"\n  remedy: {remedy}" if remedy else "")
        )


class Held(EngineError):
    """A stretch of work cannot be finished now: what is not committed is thrown away, and done again after a while."""


class Stuck(EngineError):
    """No progress though there is work."""
