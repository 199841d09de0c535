"""What a worker makes sure of before it reads anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from walstream.admin import Admin
from walstream.errors import TopicMismatch
from walstream.kafka import KafkaConnection
from walstream.topics import Topic, explain, verify


def preflight(connection: KafkaConnection, topics: Sequence[Topic]) -> Callable[[], Mapping[str, str]]:
    """Make the check for a worker that needs these topics.

    Returns
    -------
    callable
        It answers with the id of each topic: a topic that was deleted and made again has another one.

    Raises
    ------
    TopicMismatch
        From the callable: a topic is missing, or not what the namespace needs.
    """

    def check() -> Mapping[str, str]:
        admin = Admin(connection)
        differences = verify(topics, admin.describe([topic.name for topic in topics]))
        if differences:
            raise TopicMismatch("\n".join(["topics are not what they must be:", *explain(differences)]))
        return admin.topic_ids([topic.name for topic in topics])

    return check
