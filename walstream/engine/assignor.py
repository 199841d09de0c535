"""Faust's assignor, which also notices workers of one group that do not serve the same topics.

Faust groups topics by who subscribes to them. Workers with different topics would get partitions of one number at
different places, and an ingress could be read beside a dedup table that is elsewhere. So such a worker gets nothing,
and refuses to run.
"""

from __future__ import annotations

from typing import Any

from faust.assignor import PartitionAssignor
from faust.assignor.client_assignment import ClientAssignment, ClientMetadata

from walstream.errors import EngineError

REFUSED = "walstream:refused"  # no topic has such a name


class Assignor(PartitionAssignor):
    """Assigns the partitions of the leader's topics to the members that serve the same ones."""

    app: Any

    def _perform_assignment(self, cluster: Any, member_metadata: Any) -> Any:
        own = set(self.app.engine.topics)
        alike = {member: data for member, data in member_metadata.items() if set(data.subscription) == own}
        assignments = super()._perform_assignment(cluster, alike)
        others = {member: data for member, data in member_metadata.items() if member not in alike}
        if others:
            self._update_member_urls({m: self._get_client_metadata(data) for m, data in member_metadata.items()})
            empty = {member: ClientAssignment(actives={}, standbys={}) for member in others}
            assignments.update(self._protocol_assignments(empty, {}, {}, {REFUSED: 1}))
        return assignments

    def on_assignment(self, assignment: Any) -> None:
        # As Faust does it, but for its assertions: a static member that comes back gets its old assignment, with the
        # address it had before.
        metadata: Any = ClientMetadata.loads(self._decompress(assignment.user_data))
        self._assignment = metadata.assignment
        self._topic_groups = dict(metadata.topic_groups)
        self._active_tps = self._assignment.active_tps
        self._standby_tps = self._assignment.standby_tps
        self.changelog_distribution = metadata.changelog_distribution
        self.external_topic_distribution = metadata.external_topic_distribution
        if REFUSED in self._topic_groups:
            self.app.engine.fail(
                EngineError(
                    f"the other workers of group {self.app.conf.id} serve other topics than this one; workers of one "
                    "group must have the same namespaces (WALSTREAM_CONFIG, WALSTREAM_NAMESPACES)"
                )
            )
