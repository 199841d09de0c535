"""JSON schemas of the configuration files, for editors that check and complete them."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from walstream.connections import CONNECTIONS
from walstream.namespace import (
    DedupOptions,
    LimitOptions,
    Namespace,
    RetryOptions,
    ScheduleOptions,
    SourceOptions,
    TopicOptions,
)
from walstream.sinks.registry import sink_class, sink_names, source_names

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def namespace_schema() -> dict[str, Any]:
    """The schema of a namespace file, with the options of every sink that is installed.

    Raises
    ------
    MissingExtra, SinkError
        A sink that is installed cannot be loaded.
    """
    schema = Namespace.model_json_schema(by_alias=True)
    definitions = schema["$defs"]
    for model in (TopicOptions, DedupOptions, ScheduleOptions, RetryOptions, LimitOptions):
        # Pydantic shows defaults as the numbers that they are in memory; the file has them as text.
        for name, default in model().model_dump(mode="json").items():
            definitions[model.__name__]["properties"][name]["default"] = default
    source = definitions["SourceOptions"]["properties"]
    source["kind"] = {"enum": source_names()}
    source["wait"]["default"] = SourceOptions(kind="any").model_dump(mode="json")["wait"]
    target = definitions["Target"]
    target["properties"]["sink"] = {"enum": sink_names()}
    target["allOf"] = []
    for name in sink_names():
        template = f"#/$defs/{name}-{{model}}"
        options = sink_class(name).Options.model_json_schema(by_alias=True, ref_template=template)
        for model, definition in options.pop("$defs", {}).items():
            definitions[f"{name}-{model}"] = definition
        definitions[f"{name}-options"] = options
        target["allOf"].append(
            {
                "if": {"properties": {"sink": {"const": name}}},
                "then": {"properties": {"options": {"$ref": f"#/$defs/{name}-options"}}},
            }
        )
    return {"$schema": DIALECT, "title": "A namespace of walstream"} | {k: v for k, v in schema.items() if k != "title"}


def connections_schema() -> dict[str, Any]:
    """The schema of ``connections.yaml``."""
    union: Any = None
    for model in CONNECTIONS.values():
        union = model if union is None else union | model
    schema = TypeAdapter(dict[str, union]).json_schema(by_alias=True)
    return {"$schema": DIALECT, "title": "The connections of walstream"} | schema
