"""The configuration folder: ``connections.yaml`` and a file for each namespace.

Every error names the file, the line and what to do, also one about the options of a sink.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from walstream.connections import CONNECTIONS, Connection
from walstream.documents import Document, Path_, read
from walstream.errors import ConfigurationError, WalstreamError
from walstream.namespace import REPLICATE, Namespace, Target
from walstream.sinks.base import Sink, SinkContext
from walstream.sinks.registry import sink_class, sink_names, source_class, source_names
from walstream.sinks.source.refresh import refreshing

CONNECTIONS_FILE = "connections.yaml"


def load_namespaces(folder: Path, *, connections: bool = True) -> dict[str, Namespace]:
    """Every namespace of a folder, by name.

    Parameters
    ----------
    connections
        Whether to check ``connections.yaml``, too. A producer does not need the secrets that it names.

    Raises
    ------
    ConfigurationError
        Something in the folder cannot be; where several things are wrong, the message has them all.
    """
    namespaces, problems = check_folder(folder, with_connections=connections)
    _raise(problems)
    return namespaces


def load_connections(folder: Path) -> dict[str, Connection]:
    """Every entry of the folder's ``connections.yaml``, by name; none where there is no such file.

    Raises
    ------
    ConfigurationError
        The file says something that cannot be.
    """
    connections, problems = _check_connections(folder)
    _raise(problems)
    return connections


def check_folder(
    folder: Path, *, with_connections: bool = True
) -> tuple[dict[str, Namespace], list[ConfigurationError]]:
    """The namespaces that are right, and everything that is wrong."""
    if not folder.is_dir():
        return {}, [
            ConfigurationError(
                f"there is no folder {folder}", remedy="run: walstream init, or set WALSTREAM_CONFIG to the folder"
            )
        ]
    files = sorted(
        file
        for file in folder.iterdir()
        if file.suffix in (".yaml", ".yml") and file.name != CONNECTIONS_FILE and not file.name.startswith(".")
    )
    if not files:
        return {}, [ConfigurationError(f"{folder} has no namespace file", remedy="run: walstream init")]
    connections, problems = _check_connections(folder) if with_connections else (None, [])
    namespaces: dict[str, Namespace] = {}
    came_from: dict[str, str] = {}
    for file in files:
        namespace, document, found = _check_namespace(file, None if problems else connections)
        problems += found
        if namespace is None or document is None:
            continue
        for taken in (namespace.name, namespace.topics.names.ingress):
            if taken is not None and taken in came_from:
                what = "namespace" if taken == namespace.name else "ingress topic"
                path = ("namespace",) if taken == namespace.name else ("topics", "names", "ingress")
                problems.append(
                    ConfigurationError(
                        f"the {what} {taken} is already that of {came_from[taken]}",
                        file=str(file),
                        line=document.line(path),
                        remedy="name another one",
                    )
                )
            elif taken is not None:
                came_from[taken] = file.name
        namespaces.setdefault(namespace.name, namespace)
    return namespaces, problems


def make_sink(
    namespace: Namespace,
    target: str,
    connections: Mapping[str, Connection],
    extra: Mapping[str, Any] | None = None,
) -> Sink:
    """The sink of a target, not opened yet.

    Parameters
    ----------
    connections
        From `load_connections`.
    extra
        What the caller has for the sink beside the files (`SinkContext.extra`).

    Raises
    ------
    ConfigurationError
        The target names a connection that does not exist, or its options are wrong.
    """
    words = namespace.targets[target]
    if words.connection is not None and words.connection not in connections:
        raise ConfigurationError(
            f"the target {namespace.name}.{target} names the connection {words.connection}, which does not exist",
            remedy=f"write an entry {words.connection} in {CONNECTIONS_FILE}",
        )
    kind = sink_class(words.sink)
    try:
        options = kind.Options.model_validate(words.options)
    except ValidationError as error:
        raise ConfigurationError(f"the options of {namespace.name}.{target} are wrong: {error}") from error
    return kind.for_context(
        SinkContext(
            namespace=namespace.name,
            target=target,
            options=options,
            connection=connections[words.connection] if words.connection is not None else None,
            partitions=namespace.topics.partitions,
            key_template=namespace.key,
            max_record=namespace.topics.max_record,
            remember=namespace.remember(target),
            extra=extra or {},
        )
    )


def with_source(kind: type[Sink], context: SinkContext, target: Target, folder: Path) -> type[Sink]:
    """The class of a target's sink that reads at the target's source, if the target has one.

    Parameters
    ----------
    kind, context
        Of the sink alone.
    folder
        Where ``connections.yaml`` is.

    Raises
    ------
    ConfigurationError
        What the source's words name does not exist.
    """
    words = target.source
    if words is None:
        return kind
    source = source_class(words.kind)
    connection = None if words.connection is None else load_connections(folder)[words.connection]
    told = replace(context, options=source.Options.model_validate(words.options), connection=connection)
    return refreshing(kind, source, told, words.wait)


def check_regions(
    namespaces: Mapping[str, Namespace], folder: Path, region: str | None, rank: int
) -> list[ConfigurationError]:
    """What is wrong with targets that are other regions, seen from this one.

    Parameters
    ----------
    region, rank
        Where this process is.
    """
    problems = []
    for namespace in namespaces.values():
        for name, target in namespace.targets.items():
            if target.sink == REPLICATE:
                try:
                    make_sink(namespace, name, load_connections(folder), {"region": region, "rank": rank})
                except ConfigurationError as error:
                    problems.append(error)
    return problems


def _raise(problems: list[ConfigurationError]) -> None:
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise ConfigurationError("\n".join(map(str, problems)))


def _check_connections(folder: Path) -> tuple[dict[str, Connection], list[ConfigurationError]]:
    file = folder / CONNECTIONS_FILE
    if not file.exists():
        return {}, []
    try:
        document = read(file)
    except ConfigurationError as error:
        return {}, [error]
    if document.data is None:
        return {}, []
    if not isinstance(document.data, dict):
        return {}, [_problem(document, (), "names of connections are expected here", "write name: {sink: …}")]
    connections: dict[str, Any] = {}
    problems = []
    for name, entry in document.data.items():
        kind = entry.get("sink") if isinstance(entry, dict) else None
        if kind not in CONNECTIONS:
            known = " or ".join(f"sink: {sink}" for sink in CONNECTIONS)
            said = "does not say its sink" if kind is None else f"has an unknown sink {kind!r}"
            problems.append(_problem(document, (name, "sink"), f"the connection {name} {said}", f"write {known}"))
            continue
        try:
            connections[name] = CONNECTIONS[kind].model_validate(entry, context={"folder": file.parent.absolute()})
        except ValidationError as error:
            problems += _problems(error, document, CONNECTIONS[kind], (name,))
    return connections, problems


def _check_namespace(
    file: Path, connections: Mapping[str, Connection] | None
) -> tuple[Namespace | None, Document | None, list[ConfigurationError]]:
    try:
        document = read(file)
    except ConfigurationError as error:
        return None, None, [error]
    if not isinstance(document.data, dict):
        remedy = "walstream init NAME writes an example"
        return None, document, [_problem(document, (), "this is no namespace file", remedy)]
    if document.data.get("version") != 1:
        # Nothing can be said about the words of another version.
        version = document.data.get("version")
        said = "the file does not say its version" if version is None else f"version {version!r} is not known"
        remedy = "write version: 1"
        if isinstance(version, int) and version > 1:
            remedy = "it is newer than this walstream; upgrade walstream"
        return None, document, [_problem(document, ("version",), said, remedy)]
    try:
        namespace = Namespace.model_validate(document.data, context={"folder": file.parent.absolute()})
    except ValidationError as error:
        return None, document, _problems(error, document, Namespace, ())
    problems = [
        problem
        for name, target in namespace.targets.items()
        for problem in _check_target(document, ("targets", name), target, connections)
    ]
    return (None if problems else _with_state(namespace)), document, problems


def _with_state(namespace: Namespace) -> Namespace:
    """The namespace, in which the targets know whether their sinks keep rows of their own."""
    targets = {
        name: target.with_state() if sink_class(target.sink).stateful else target
        for name, target in namespace.targets.items()
    }
    return namespace.model_copy(update={"targets": targets})


def _check_target(
    document: Document, path: Path_, target: Target, connections: Mapping[str, Connection] | None
) -> list[ConfigurationError]:
    try:
        kind = sink_class(target.sink)
    except ConfigurationError as error:
        near = _nearest(target.sink, sink_names())
        return [_problem(document, (*path, "sink"), error.message, near or error.remedy)]
    except WalstreamError as error:
        return [_problem(document, (*path, "sink"), str(error), None)]
    problems = _check_options(document, path, kind.Options, target.options)
    wanted = kind.connection_kind or (target.sink if target.sink in CONNECTIONS else None)
    said = f"a {target.sink} target"
    problems += _check_connection(document, path, said, kind.needs_connection, wanted, target.connection, connections)
    return problems + (_check_source(document, (*path, "source"), target, kind, connections) if target.source else [])


def _check_source(
    document: Document, path: Path_, target: Target, kind: type[Sink], connections: Mapping[str, Connection] | None
) -> list[ConfigurationError]:
    words = target.source
    assert words is not None
    if not kind.forgets_deletes:
        remedy = "leave it out; a source is for sinks that tell old from new by effective time, such as redis"
        return [_problem(document, path, f"a {target.sink} target cannot have a source", remedy)]
    try:
        source = source_class(words.kind)
    except ConfigurationError as error:
        near = _nearest(words.kind, source_names())
        return [_problem(document, (*path, "kind"), error.message, near or error.remedy)]
    except WalstreamError as error:
        return [_problem(document, (*path, "kind"), str(error), None)]
    problems = _check_options(document, path, source.Options, words.options)
    wanted, said = source.connection_kind, f"a source of kind {words.kind}"
    return problems + _check_connection(
        document, path, said, source.needs_connection, wanted, words.connection, connections
    )


def _check_options(
    document: Document, path: Path_, options: type[BaseModel], said: Mapping[str, Any]
) -> list[ConfigurationError]:
    words = _words(options)
    # Looked for here, since the model of somebody's own sink may let unknown words pass.
    problems = [_unknown(document, (*path, "options", word), words) for word in said if word not in words]
    try:
        context = {"folder": document.file.parent.absolute()}
        # A misspelt word is taken for the right one, so that it is not reported as missing, too.
        given = {(word if word in words else _near(word, words)): value for word, value in said.items()}
        options.model_validate({word: value for word, value in given.items() if word is not None}, context=context)
    except ValidationError as error:
        problems += _problems(error, document, options, (*path, "options"))
    return problems


def _check_connection(
    document: Document,
    path: Path_,
    who: str,
    needed: bool,
    wanted: str | None,
    name: str | None,
    connections: Mapping[str, Connection] | None,
) -> list[ConfigurationError]:
    """What is wrong with the connection that somebody names.

    Parameters
    ----------
    who
        In words.
    needed
        Whether there has to be one.
    wanted
        The ``sink`` that it must have; None is any.
    """
    if connections is None:
        return []
    if name is None:
        if not needed:
            return []
        remedy = f"write connection: NAME, and the entry NAME in {CONNECTIONS_FILE}"
        return [_problem(document, path, f"{who} needs a connection", remedy)]
    where = (*path, "connection")
    connection = connections.get(name)
    if connection is None:
        near = _nearest(name, connections)
        remedy = near or f"write an entry {name} in {document.file.parent / CONNECTIONS_FILE}"
        return [_problem(document, where, f"there is no connection {name!r}", remedy)]
    if wanted is not None and connection.sink != wanted:
        fitting = ", ".join(known for known, entry in connections.items() if entry.sink == wanted)
        remedy = f"name one that is: {fitting}" if fitting else f"write an entry with sink: {wanted}, and name it here"
        return [_problem(document, where, f"the connection {name} is for {connection.sink}, not for {wanted}", remedy)]
    return []


def _problem(document: Document, path: Path_, message: str, remedy: str | None) -> ConfigurationError:
    return ConfigurationError(message, file=str(document.file), line=document.line(path), remedy=remedy)


def _problems(
    error: ValidationError, document: Document, model: type[BaseModel], prefix: Path_
) -> list[ConfigurationError]:
    found = []
    for entry in error.errors(include_url=False, include_input=False):
        path: Path_ = (*prefix, *entry["loc"])
        context = entry.get("ctx", {})
        name = ".".join(str(part) for part in path if part != "[key]")
        if entry["type"] == "extra_forbidden":
            holder = _model_at(model, entry["loc"][:-1])
            found.append(_unknown(document, path, _words(holder) if holder is not None else []))
        elif entry["type"] == "missing":
            found.append(_problem(document, path[:-1], f"{name} is missing", f"write {path[-1]}: … here"))
        elif entry["type"] == "fault":
            found.append(_problem(document, (*path, *context["path"]), context["message"], context["remedy"]))
        elif entry["type"] == "string_pattern_mismatch" and (path[-1] == "[key]" or path == ("namespace",)):
            said = f"{name} is no name of a {'namespace' if path == ('namespace',) else 'target'}"
            remedy = "a name has lower-case letters, digits and '-', starts with a letter, and has at most 63 of them"
            found.append(_problem(document, path, said, remedy))
        else:
            said = entry["msg"].removeprefix("Value error, ")
            found.append(_problem(document, path, f"{name}: {said}", None))
    return sorted(found, key=lambda problem: problem.line or 0)


def _unknown(document: Document, path: Path_, words: Iterable[str]) -> ConfigurationError:
    where = ".".join(map(str, path[:-1]))
    known = f"known here are {', '.join(words)}" if words else "nothing can stand here"
    said = f"unknown word {str(path[-1])!r}" + (f" in {where}" if where else "")
    return _problem(document, path, said, _nearest(str(path[-1]), words) or known)


def _near(word: str, words: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(word, list(words), n=1)), None)


def _nearest(word: str, words: Iterable[str]) -> str | None:
    near = _near(word, words)
    return None if near is None else f"did you mean {near}?"


def _words(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_at(model: Any, path: Path_) -> type[BaseModel] | None:
    """The model that stands at a path of an error."""
    for part in path:
        if isinstance(model, type) and issubclass(model, BaseModel):
            fields = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
            if part not in fields:
                return None
            model = fields[str(part)]
            choices = [arg for arg in get_args(model) if isinstance(arg, type) and issubclass(arg, BaseModel)]
            if get_origin(model) not in (dict, list) and choices:
                model = choices[0]
        else:
            arguments = get_args(model)
            if not arguments:
                return None
            model = arguments[-1]
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None
