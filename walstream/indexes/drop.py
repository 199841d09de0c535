"""Removes an index: its table and the topics and consumer group of its target."""

from __future__ import annotations

from walstream import topics
from walstream.admin import Admin
from walstream.errors import WalstreamError
from walstream.indexes.index import Index


class AtWork(WalstreamError):
    """A worker delivers to the index."""


class Drop:
    """What is to be removed.

    Parameters
    ----------
    index
        Which.
    admin
        The namespace's Kafka.

    Attributes
    ----------
    topics
        The names of its topics.
    """

    def __init__(self, index: Index, admin: Admin) -> None:
        self._index, self._admin = index, admin
        self._group = topics.delivery_app_id(index.namespace, index.target)
        self.topics = [topic.name for topic in topics.target_topics(index.namespace, index.target)]

    def check(self) -> None:
        """See whether it may be removed.

        Raises
        ------
        AtWork
            A worker runs.
        """
        if self._admin.groups([self._group])[self._group].active:
            raise AtWork(
                f"a worker delivers to {self._index.name}\n  remedy: stop it; where one walstream run serves all, "
                f"restart it with --only for each of the others"
            )

    def run(self) -> list[str]:
        """Remove everything; answer what that was. It may be repeated.

        Raises
        ------
        AtWork
            A worker runs.
        Unreachable
            Kafka does not answer.
        """
        self.check()
        # The group before its topics: `apply` takes a target for new as long as there is no retry topic, and would let
        # it begin where the old one was.
        dropped = []
        if self._admin.delete_group(self._group):
            dropped.append(f"the consumer group {self._group}")
        dropped += [f"the topic {name}" for name in self._admin.delete(self.topics)]
        self._index.session.execute(f"DROP TABLE IF EXISTS {self._index.quoted(self._index.options.table)}")
        return [*dropped, f"the table {self._index.table}"]
