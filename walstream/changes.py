"""A change to a resource outside walstream (a topic, a keyspace, a table), made or only planned."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class Action(enum.Enum):
    """What is done about a resource."""

    NONE = "unchanged"
    CREATE = "create"
    ALTER = "alter"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Change:
    """One resource and what is done about it.

    Parameters
    ----------
    action
        `Action.REFUSE` is for what would break order or lose data; ``detail`` then says why and what to do.
    kind
        ``topic``, ``keyspace``, ``table``, …
    name
        The resource's name.
    detail
        One sentence for a person.
    settings
        Everything that somebody needs to make the resource with another tool.
    """

    action: Action
    kind: str
    name: str
    detail: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
