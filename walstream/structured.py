"""CloudEvents in structured mode: a JSON object that holds the attributes and the data."""

from __future__ import annotations

import base64
import json
from typing import Any, NamedTuple

import orjson

from walstream.attributes import COMMON, LIFECYCLE, RESERVED
from walstream.errors import RecordRefused

MEDIA_TYPE = "application/cloudevents+json"

ANNOUNCEMENT = b"application/cloudevents"
"""What the content type of a record in structured mode starts with, 23 bytes, in lower case."""


class Event(NamedTuple):
    """What a structured value says.

    Parameters
    ----------
    attributes
        Those that walstream acts upon, with ``ce_`` in front of their names, as in binary mode.
    payload
        The data. Of JSON data it is the very text that stands in the event.
    content_type
        The type of the data.
    """

    attributes: dict[str, str]
    payload: bytes | None
    content_type: str | None


def check_media_type(media_type: bytes) -> None:
    """Refuse a content type ``application/cloudevents…`` that is another format, or a batch."""
    name = media_type.partition(b";")[0].strip().lower()
    if name != MEDIA_TYPE.encode():
        shown = name.decode(errors="replace")
        raise RecordRefused("unsupported-format", f"the content type {shown} cannot be read; only {MEDIA_TYPE} can")


def parse_event(value: bytes | None, *, announced: bool) -> Event:
    """Read a structured value.

    Parameters
    ----------
    value
        Of the Kafka record.
    announced
        Whether the content type says that it is an event.
    """
    try:
        event: Any = orjson.loads(value or b"")
    except orjson.JSONDecodeError as error:
        event = None
        if announced:
            raise RecordRefused(
                "bad-json", f"the content type announces JSON, but the value is none: {error}"
            ) from None
    if not isinstance(event, dict):
        if announced:
            raise RecordRefused("bad-json", "the content type announces an event, but the value is not a JSON object")
        event = {}
    if not announced and "specversion" not in event:
        raise RecordRefused(
            "not-a-cloudevent", "there are no ce_ headers, and the value is not a JSON object with specversion"
        )
    attributes = {}
    for member, text in event.items():
        name = f"ce_{member}"
        if text is not None and (name in COMMON or name in LIFECYCLE or name.startswith(RESERVED)):
            if not isinstance(text, str):
                raise RecordRefused("bad-attribute", f"the attribute {member} is not text")
            attributes[name] = text
    return Event(attributes, *_data(value or b"", event))


def _data(value: bytes, event: dict[str, Any]) -> tuple[bytes | None, str | None]:
    content_type = event.get("datacontenttype")
    if content_type is not None and not isinstance(content_type, str):
        raise RecordRefused("bad-attribute", "the attribute datacontenttype is not text")
    data, encoded = event.get("data"), event.get("data_base64")
    if encoded is not None:
        if data is not None:
            raise RecordRefused("bad-data", "the event has data and data_base64; it can have one")
        try:
            return base64.b64decode(encoded, validate=True), content_type
        except (TypeError, ValueError):
            raise RecordRefused("bad-data", "data_base64 is not Base64") from None
    if data is None:
        return None, content_type
    if isinstance(data, str) and content_type is not None and not _is_json(content_type):
        return data.encode(), content_type
    # CloudEvents JSON format 1.0, 3.1: without a datacontenttype the data is JSON.
    return _member(value.decode(), "data"), content_type or "application/json"


def _is_json(content_type: str) -> bool:
    name = content_type.partition(";")[0].strip().lower()
    return name.endswith(("/json", "+json"))


def _member(text: str, wanted: str) -> bytes:
    """The text of a member of a JSON object that is known to be valid and to have it.

    Read and written again, a large integer or a decimal fraction would come out as another number.
    """
    decode = json.JSONDecoder().raw_decode
    found = ""

    def skip(position: int) -> int:
        while text[position] in " \t\r\n":
            position += 1
        return position

    position = skip(0)
    while text[position] != "}":
        name, position = decode(text, skip(position + 1))
        start = skip(skip(position) + 1)
        try:
            _, end = decode(text, start)
        except (RecursionError, ValueError):  # deeper than the interpreter's stack, or an integer of 4,300 digits
            raise RecordRefused("bad-json", "the event is nested too deeply, or has too long a number") from None
        if name == wanted:
            found = text[start:end]
        position = skip(end)
    return found.encode()
