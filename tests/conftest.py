"""What all tests share: one Kafka and one Cassandra for the session, and names of their own on them.

A test that stops or kills a server makes one of its own with `make_kafka` or `make_cassandra`.
"""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

    from walstream.local import Servers
    from walstream.local.certificates import Certificates
    from walstream.testing.sandbox import Sandbox
    from walstream.testing.servers import Address, Name, Server

MakeServer = Callable[..., "Server"]
MakeTopic = Callable[..., str]
MakeSandbox = Callable[..., "Sandbox"]


@pytest.fixture(scope="session")
def _address_of(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Name], Address]]:
    """The session's servers. All that the chosen tests need are started at once, when the first is asked for."""
    from walstream.testing.servers import given, start_server

    needed: dict[Name, str] = {"kafka": "brokers", "cassandra": "cassandra"}
    used = {fixture for item in request.session.items for fixture in getattr(item, "fixturenames", ())}
    # Made here, one after the other: two threads that are the first to ask pytest for a folder trip over each other.
    folders = {name: tmp_path_factory.mktemp(name) for name in needed}
    with ExitStack() as stack, ThreadPoolExecutor(len(needed)) as pool:

        def start(name: Name) -> Address:
            if address := given(name):
                return address
            return stack.enter_context(closing(start_server(name, folders[name]))).address

        starting = {name: pool.submit(start, name) for name, fixture in needed.items() if fixture in used}

        def address_of(name: Name) -> Address:
            if name not in starting:  # A test asks for it only as it runs.
                starting[name] = pool.submit(start, name)
            return starting[name].result()

        yield address_of


@pytest.fixture(scope="session")
def brokers(_address_of: Callable[[Name], Address]) -> Address:
    """The session's Kafka: ``host:port``."""
    return _address_of("kafka")


@pytest.fixture(scope="session")
def cassandra(_address_of: Callable[[Name], Address]) -> Address:
    """The session's Cassandra: ``host:port``, with `host`, `port` and `contact_points`."""
    return _address_of("cassandra")


@pytest.fixture(scope="session")
def admin(brokers: Address) -> AdminClient:
    """An admin client of the session's Kafka."""
    from confluent_kafka.admin import AdminClient

    return AdminClient({"bootstrap.servers": brokers})


@pytest.fixture(scope="session")
def cassandra_session(cassandra: Address) -> Iterator[Any]:
    """A session of the driver with the session's Cassandra."""
    from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
    from cassandra.policies import RoundRobinPolicy

    profiles = {EXEC_PROFILE_DEFAULT: ExecutionProfile(RoundRobinPolicy(), request_timeout=30)}
    cluster = Cluster(cassandra.contact_points, port=cassandra.port, protocol_version=5, execution_profiles=profiles)
    try:
        yield cluster.connect()
    finally:
        cluster.shutdown()


@pytest.fixture
def prefix() -> str:
    """A start of names that no other test has, also good for a namespace: letters and digits."""
    return f"t{uuid.uuid4().hex[:10]}"


@pytest.fixture
def make_topic(admin: AdminClient, prefix: str) -> Iterator[MakeTopic]:
    """Make topics ``<prefix>.<name>``, which are deleted after the test."""
    from confluent_kafka.admin import NewTopic

    made: list[str] = []

    def make(name: str = "topic", partitions: int = 1, **config: str) -> str:
        topic = f"{prefix}.{name}"
        settings = {key.replace("_", "."): value for key, value in config.items()}
        new = NewTopic(topic, num_partitions=partitions, replication_factor=1, config=settings)
        admin.create_topics([new])[topic].result(timeout=30)
        made.append(topic)
        return topic

    yield make
    for deleted in (admin.delete_topics(made) if made else {}).values():
        deleted.result(timeout=30)


@pytest.fixture
def keyspace(cassandra_session: Any, prefix: str) -> Iterator[str]:
    """A keyspace of the test's own, dropped after it."""
    replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}"
    cassandra_session.execute(f"CREATE KEYSPACE {prefix} WITH replication = {replication} AND durable_writes = true")
    yield prefix
    cassandra_session.execute(f"DROP KEYSPACE IF EXISTS {prefix}")


@pytest.fixture(scope="module")
def make_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeServer]:
    """Make a Kafka of one's own that may be stopped, killed and started; ended after the module."""
    from walstream.testing.servers import start_server

    with ExitStack() as stack:

        def make(advertised: int | None = None) -> Server:
            server = start_server("kafka", tmp_path_factory.mktemp("kafka"), advertised=advertised)
            return stack.enter_context(closing(server))

        yield make


@pytest.fixture(scope="module")
def make_cassandra(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeServer]:
    """Make a Cassandra of one's own that may be stopped, killed and started; ended after the module."""
    from walstream.testing.servers import start_server

    with ExitStack() as stack:

        def make() -> Server:
            return stack.enter_context(closing(start_server("cassandra", tmp_path_factory.mktemp("cassandra"))))

        yield make


@pytest.fixture(scope="module")
def make_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeServer]:
    """Make a Redis of one's own, with more of its command line if need be; ended after the module."""
    from walstream.testing.redis_server import RedisServer

    if (missing := RedisServer.missing()) is not None:
        pytest.skip(missing)
    with ExitStack() as stack:

        def make(*arguments: str) -> Server:
            return stack.enter_context(closing(RedisServer(tmp_path_factory.mktemp("redis"), arguments)))

        yield make


@pytest.fixture(scope="module")
def make_memcached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeServer]:
    """Make a memcached of one's own, with more of its command line if need be; ended after the module."""
    from walstream.testing.memcached_server import MemcachedServer

    if (missing := MemcachedServer.missing()) is not None:
        pytest.skip(missing)
    with ExitStack() as stack:

        def make(*arguments: str) -> Server:
            return stack.enter_context(closing(MemcachedServer(tmp_path_factory.mktemp("memcached"), arguments)))

        yield make


@pytest.fixture(scope="session")
def seed() -> int:
    """What random tests draw from; `WALSTREAM_SEED` repeats a run, and the end of every run says it."""
    return int(os.environ.get("WALSTREAM_SEED") or random.SystemRandom().randrange(1_000_000))


@pytest.fixture(autouse=True)
def _note_the_seed(request: pytest.FixtureRequest) -> None:
    if "seed" in request.fixturenames:
        request.config.stash[SEED] = request.getfixturevalue("seed")


SEED = pytest.StashKey[int]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say with which seed the run can be repeated."""
    if SEED in config.stash:
        terminalreporter.write_line(f"random tests: repeat with WALSTREAM_SEED={config.stash[SEED]}")


@pytest.fixture(scope="module")
def make_sandbox(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeSandbox]:
    """Make namespaces of one's own, with workers, on the session's Kafka or on another; cleaned up after the module."""
    from walstream.testing.sandbox import Sandbox

    with ExitStack() as stack:

        def make(*, brokers: str | None = None, **options: Any) -> Sandbox:
            where = brokers or request.getfixturevalue("brokers")
            return stack.enter_context(Sandbox(tmp_path_factory.mktemp("sandbox"), where, **options))

        yield make


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates of `secure`'s servers and of a client."""
    from walstream.local.certificates import make_certificates

    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def secure(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Servers]:
    """A Kafka with TLS and SASL (``alice``, "a secret of 5 words") and a Cassandra with TLS and passwords; local ones.

    Kafka's listeners are `secure.address("kafka", "SASL_SSL")` and so on; Cassandra's user is ``cassandra``, and so is
    the password.
    """
    from walstream.local import CassandraOptions, KafkaOptions, Servers

    kafka = KafkaOptions(quick=True, users={"alice": "a secret of 5 words"}, certificates=certificates)
    cassandra = CassandraOptions(quick=True, passwords=True, certificates=certificates)
    with Servers(tmp_path_factory.mktemp("secure"), kafka=kafka, cassandra=cassandra) as servers:
        servers.up()
        yield servers
        for name in servers.names:
            servers.stop(name, kill=True)
