"""Tells a target what people want: writes controls to its retry topic, and waits until the delivery has taken them."""

from __future__ import annotations

import time
from collections.abc import Mapping

from walstream import control, topics
from walstream.admin import Partition
from walstream.control import Control, Kind
from walstream.kafka import KafkaConnection
from walstream.letters import Letter
from walstream.namespace import Namespace
from walstream.scan import Scanner
from walstream.writer import Writer

POLL = 0.2
"""Seconds between two looks at what the delivery has committed."""


class Controller:
    """The target as people command it.

    Parameters
    ----------
    connection, scanner
        The namespace's Kafka.
    namespace, target
        The target.
    rate
        Controls per second, at most.

    Raises
    ------
    NotDurable
        From methods that write: a control was not written, or may not be.
    Unreachable
        Kafka does not answer, or refuses.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        scanner: Scanner,
        namespace: Namespace,
        target: str,
        *,
        rate: float | None = None,
    ) -> None:
        self._admin, self._group = scanner.admin, topics.delivery_app_id(namespace, target)
        self._partitions = namespace.topics.partitions
        topic = topics.retry(namespace, target)
        self._topic = topic.name
        self._writer = Writer(connection, largest=int(topic.config["max.message.bytes"]), rate=rate)

    @property
    def written(self) -> Mapping[Partition, int]:
        """The offset of the last control of each partition that has one."""
        return self._writer.acknowledged

    def pause(self, reason: str | None) -> None:
        """Have nothing more tried."""
        self._tell_all(Control(Kind.PAUSE, reason=reason))

    def resume(self) -> None:
        """Go on after a pause, or try at once where the target counts as down."""
        self._tell_all(Control(Kind.RESUME))

    def _tell_all(self, said: Control) -> None:
        for number in range(self._partitions):
            self._writer.write(self._topic, number, control.encode(said))
        self._writer.flush()

    def quarantine(self, partition: int, position: int, key: bytes | None, reason: str | None) -> None:
        """Have the record at a log position put into the DLQ without a look at it."""
        said = Control(Kind.QUARANTINE, position, reason=reason)
        self._writer.write(self._topic, partition, control.encode(said, key))
        self._writer.flush()

    def redrive(self, letter: Letter) -> None:
        """Have a dead record tried again; `flush` waits until that is written."""
        found = letter.found
        self._writer.write(self._topic, found.partition, control.redrive(found.key, found.value, found.headers))

    def drop(self, letter: Letter, reason: str | None) -> None:
        """Give a dead record up; `flush` waits until that is written."""
        said = Control(Kind.DROP, letter.position, letter.when, reason)
        self._writer.write(self._topic, letter.partition, control.encode(said, letter.found.key))

    def flush(self) -> None:
        """Wait until everything that was said is written."""
        self._writer.flush()

    def is_at_work(self) -> bool:
        """Whether any worker delivers to the target."""
        return self._admin.groups([self._group])[self._group].active

    def wait(self, seconds: float) -> bool:
        """Wait until the delivery has taken everything that was written; False where it has not, in that time.

        It is not waited for where there is no worker.
        """
        deadline = time.monotonic() + seconds
        while self.written:
            committed = self._admin.committed(self._group, list(self.written))
            if all(committed.get(place, 0) > offset for place, offset in self.written.items()):
                return True
            if time.monotonic() >= deadline or not self.is_at_work():
                return False
            time.sleep(POLL)
        return True
