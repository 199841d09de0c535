"""Invalidations: what is sent of a mutation to a region that keeps copies only, and where a row is to be forgotten.

The record stays what it was, its identity and its times included, but for its type and its data: a JSON object with
``table`` (where the mutation names one) and ``key``. A store that understands it deletes the row unless it has
something newer, and remembers when, as with a delete.
"""

from __future__ import annotations

import orjson

from walstream.entry import Entry
from walstream.errors import RecordRefused
from walstream.mutation import CONTENT_TYPE, Mutation, parse_mutation, to_json
from walstream.mutation import TYPE as MUTATION_TYPE
from walstream.record import Message, encode

TYPE = "walstream.invalidation"
"""The CloudEvents type."""


def invalidation(entry: Entry) -> Message:
    """What is sent in place of an entry.

    Raises
    ------
    RecordRefused
        It is no mutation: what in it would have to be forgotten is not known. The code is ``no-mutation``; or it is one
        of `walstream.mutation.parse_mutation`.
    """
    if entry.type != MUTATION_TYPE:
        raise RecordRefused("no-mutation", f"its type is {entry.type}; mode: keys is for {MUTATION_TYPE} only")
    mutation = parse_mutation(entry.payload)
    members = {"key": mutation.key} if mutation.table is None else {"table": mutation.table, "key": mutation.key}
    payload = to_json(members)
    record = entry.record
    if record.structured:
        message = encode(
            payload, key=entry.key, id=record.id, source=record.source, type=TYPE, time=record.time,
            content_type=CONTENT_TYPE, delay=record.delay, jitter=record.jitter, deliver_at=record.deliver_at,
            expiry=record.expiry, targets=record.targets,
        )  # fmt: skip
        others = [header for header in entry.headers if header[0].lower() != "content-type"]
        return Message(entry.key, payload, [*message.headers, *others])
    headers = [
        header for header in entry.headers if header[0] != "ce_type" and header[0].lower() != "content-type"
    ]  # fmt: skip
    return Message(entry.key, payload, [*headers, ("ce_type", TYPE.encode()), ("content-type", CONTENT_TYPE.encode())])


def parse_invalidation(payload: bytes | None) -> Mutation:
    """Read an invalidation as the delete that it is to a store of copies.

    Raises
    ------
    RecordRefused
        It is none; the codes are those of `walstream.mutation.parse_mutation`.
    """
    try:
        members = orjson.loads(payload or b"")
    except orjson.JSONDecodeError as error:
        raise RecordRefused("bad-mutation", f"an invalidation is a JSON object: {error}") from None
    if not isinstance(members, dict) or not members.keys() <= {"table", "key"}:
        raise RecordRefused("bad-mutation", "an invalidation has a key, and may have a table")
    # As it stands, so that the numbers in the key keep their digits.
    return parse_mutation(b'{"op":"delete",%b' % (payload or b"").lstrip()[1:])
