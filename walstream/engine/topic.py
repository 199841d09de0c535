"""Faust topics whose events are whole fetches."""

from __future__ import annotations

from typing import Any

import faust
from faust.types import EventT
from faust.types.tuples import Message


class FetchTopic(faust.Topic):
    """A source that hands `Fetch` objects on as they are. It is never acknowledged: offsets are in the checkpoints."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "acks": False, "internal": False})

    def _compile_decode(self) -> None:
        self.decode = self._pass_on  # type: ignore[method-assign]  # as Faust itself does

    async def _pass_on(self, message: Message, *, propagate: bool = False) -> EventT[Any]:
        return self._create_event(None, message.value, headers=None, message=message)
