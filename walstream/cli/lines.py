"""Records as lines of JSON (NDJSON), as `walstream write --ndjson` reads them.

A line is a mutation, ``{"op": "put", "key": {…}, "set": {…}}``, or an object with the members of `LINE`, of which none
is required but ``payload`` or ``payload_base64``; or, of a cancel or reschedule, ``action`` and ``ref``.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
from decimal import Decimal
from typing import Any

import orjson

from walstream.client.write import Write
from walstream.errors import RecordRefused
from walstream.mutation import parse_mutation

LINE = {
    "payload": "null, text, or any JSON",
    "payload_base64": "bytes",
    "key": "text",
    "id": "text",
    "source": "text",
    "type": "text",
    "content_type": "text",
    "time": "RFC 3339",
    "delay": "such as 10m",
    "jitter": "such as 30s",
    "deliver_at": "RFC 3339",
    "expiry": "RFC 3339",
    "targets": "a list of names",
    "extensions": "an object of texts",
    "headers": "an object of texts and nulls",
    "action": "cancel or reschedule",
    "ref": "text",
}
_OTHERS = {"payload", "payload_base64", "targets", "extensions", "headers"}
_TEXTS = tuple(member for member in LINE if member not in _OTHERS)


def parse_line(line: bytes, defaults: Write) -> Write:
    """Read a line.

    Parameters
    ----------
    defaults
        What the record has that the line does not say.

    Raises
    ------
    RecordRefused
        The line is not such a record; the code is ``bad-line``, or ``bad-mutation``.
    """
    try:
        data = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise _refused(f"it is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise _refused("it is not a JSON object")
    if "op" in data:
        return dataclasses.replace(defaults, payload=parse_mutation(line))
    if unknown := data.keys() - LINE.keys():
        raise _refused(f"it has {', '.join(sorted(unknown))}; a line has op, key and set, or some of {', '.join(LINE)}")
    payloads = [name for name in ("payload", "payload_base64") if name in data]
    if data.get("action") in ("cancel", "reschedule"):
        if payloads:
            raise _refused(f"a {data['action']} has no payload")
    elif len(payloads) != 1:
        raise _refused("it needs either payload or payload_base64, or op for a mutation")
    members = {name: value for name, value in data.items() if name in _TEXTS and value is not None}
    for name, value in members.items():
        if not isinstance(value, str):
            raise _refused(f"{name} is not text")
    if data.get("targets") is not None:
        if not isinstance(data["targets"], list) or not all(isinstance(name, str) for name in data["targets"]):
            raise _refused("targets is not a list of names")
        members["targets"] = data["targets"]
    if data.get("extensions") is not None:
        members["extensions"] = {**(defaults.extensions or {}), **_texts("extensions", data["extensions"])}
    if data.get("headers") is not None:
        texts = _texts("headers", data["headers"], nulls=True)
        more = [(name, None if text is None else text.encode()) for name, text in texts.items()]
        members["headers"] = [*defaults.headers, *more]
    payload = _payload(data, line) if payloads else None
    if isinstance(payload, bytes) and "payload" in data and defaults.content_type is None:
        members.setdefault("content_type", "application/json")
    return dataclasses.replace(defaults, payload=payload, **members)


def _payload(data: dict[str, Any], line: bytes) -> bytes | str | None:
    if "payload_base64" in data:
        try:
            return base64.b64decode(data["payload_base64"], validate=True)
        except (TypeError, ValueError, binascii.Error) as error:
            raise _refused(f"payload_base64 is not Base64: {error}") from error
    payload = data["payload"]
    if payload is None or isinstance(payload, str):
        return payload
    # Once more, without floats: a number keeps all of its digits.
    exact = json.loads(line, parse_float=Decimal)["payload"]
    try:
        return orjson.dumps(exact, default=_number)
    except TypeError as error:
        raise _refused(f"the payload cannot be written: {error}") from error


def _number(value: Any) -> orjson.Fragment:
    return orjson.Fragment(str(value).encode())


def _texts(name: str, value: Any, *, nulls: bool = False) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(
        isinstance(text, str) or (nulls and text is None) for text in value.values()
    ):
        raise _refused(f"{name} is not an object of texts")
    return value


def _refused(reason: str) -> RecordRefused:
    return RecordRefused("bad-line", reason)
