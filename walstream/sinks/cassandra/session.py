"""A connected session of the driver, made from an entry of ``connections.yaml``."""

from __future__ import annotations

from typing import Any

import stamina
from cassandra import AuthenticationFailed, ConsistencyLevel, UnresolvableContactPoints
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable
from cassandra.policies import DCAwareRoundRobinPolicy, ExponentialReconnectionPolicy, TokenAwarePolicy

from walstream.connections import CassandraConnection
from walstream.errors import SinkError
from walstream.sinks.cassandra.types import PROTOCOL

# Longer than the server's own timeout for writes (2 s), so that it is the server that says what happened.
REQUEST_TIMEOUT_S = 10.0
# A Cassandra that is starting needs about that; then it is for the supervisor to try again.
CONNECT_FOR_S = 30.0
# The driver's own default waits up to ten minutes before it looks at a dead node again.
RECONNECT_MAX_S = 5.0


def connect(connection: CassandraConnection, consistency: str) -> Any:
    """Connect, trying again for a while. Blocks.

    Parameters
    ----------
    consistency
        The consistency level of every statement, by name.

    Returns
    -------
    cassandra.cluster.Session
        Token-aware; `disconnect` shuts it down.

    Raises
    ------
    SinkError
        No host answered, or the password is wrong.
    """
    where = ", ".join(connection.hosts)
    try:
        for attempt in stamina.retry_context(on=_may_pass, attempts=None, timeout=CONNECT_FOR_S, wait_max=3.0):
            with attempt:
                return _connect_once(connection, consistency)
    except NoHostAvailable as error:
        if any(isinstance(cause, AuthenticationFailed) for cause in error.errors.values()):
            raise SinkError(f"Cassandra at {where} refuses the user name or password: {_causes(error)}") from error
        raise SinkError(f"Cassandra at {where} does not answer: {_causes(error)}") from error
    except UnresolvableContactPoints as error:
        raise SinkError(f"no address is known for the Cassandra hosts {where}") from error
    raise AssertionError("unreachable: the last attempt raises")


def disconnect(session: Any) -> None:
    """Shut the session and its threads down. Blocks."""
    session.cluster.shutdown()


def _may_pass(error: Exception) -> bool:
    return isinstance(error, NoHostAvailable) and not any(
        isinstance(cause, AuthenticationFailed) for cause in error.errors.values()
    )


def _connect_once(connection: CassandraConnection, consistency: str) -> Any:
    auth = None
    if connection.username is not None and connection.password is not None:
        auth = PlainTextAuthProvider(connection.username, connection.password.read())
    profile = ExecutionProfile(
        load_balancing_policy=TokenAwarePolicy(DCAwareRoundRobinPolicy(connection.datacenter or "")),
        consistency_level=ConsistencyLevel.name_to_value[consistency],
        request_timeout=REQUEST_TIMEOUT_S,
    )
    cluster = Cluster(
        [_contact_point(host, connection.port) for host in connection.hosts],
        port=connection.port,
        auth_provider=auth,
        ssl_context=None if connection.ssl is None else connection.ssl.context(),
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
        reconnection_policy=ExponentialReconnectionPolicy(0.25, RECONNECT_MAX_S),
        application_name="walstream",
        protocol_version=PROTOCOL,
        monitor_reporting_enabled=False,
    )
    try:
        session = cluster.connect()
    except BaseException:
        cluster.shutdown()
        raise
    session.use_client_timestamp = False  # every statement brings its own
    return session


def _contact_point(host: str, port: int) -> tuple[str, int]:
    """A host may have a port of its own; an address of IPv6 then stands in brackets."""
    name, colon, own = host.rpartition(":")
    if colon and own.isdigit() and (":" not in name or name.startswith("[")):
        host, port = name, int(own)
    return host.strip("[]"), port


def _causes(error: NoHostAvailable) -> str:
    return "; ".join(sorted({f"{type(cause).__name__}: {cause}" for cause in error.errors.values()})) or str(error)
