"""The image: built, and workers run from it; and servers from containers, the other way of the fixtures."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from confluent_kafka import Producer

from walstream.local.ports import free_port
from walstream.testing.sandbox import COPY, Sandbox
from walstream.testing.servers import CassandraContainer, KafkaContainer, engine_answers
from walstream.testing.waiting import wait_until
from walstream.testing.workload import Workload

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    if not engine_answers():
        pytest.skip("no Docker engine answers")
    with contextlib.closing(docker.from_env(timeout=600)) as client:
        yield client


@pytest.fixture(scope="module")
def image(engine: docker.DockerClient) -> str:
    """The image, built by the `docker` command as people do; `WALSTREAM_TEST_PYTHON_IMAGE` is what it stands on."""
    base = os.environ.get("WALSTREAM_TEST_PYTHON_IMAGE")
    arguments = ["--build-arg", f"PYTHON_IMAGE={base}"] if base else []
    command = ["docker", "build", "--network=host", "-t", "walstream-test", *arguments, str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, f"{built.stdout[-3000:]}\n{built.stderr[-3000:]}"
    return "walstream-test"


def test_the_image_has_the_commands_and_no_root(engine: docker.DockerClient, image: str) -> None:
    run = engine.containers.run
    assert b"Usage: walstream" in run(image, ["walstream", "--help"], remove=True)
    assert run(image, ["id", "-un"], remove=True).strip() == b"walstream"


def test_workers_of_the_image_do_the_main_job(
    engine: docker.DockerClient, image: str, make_sandbox: Callable[..., Sandbox], seed: int
) -> None:
    sandbox = make_sandbox()
    with contextlib.ExitStack() as stack:
        containers = {}
        for stage, topology in (("router", "topologies.router"), (COPY, "topologies.delivery")):
            settings = sandbox.worker(stage).environment | {"WALSTREAM_CONFIG": "/etc/walstream"}
            where: dict[str, Any] = {
                "volumes": {str(sandbox.folder / "config"): {"bind": "/etc/walstream", "mode": "ro"}},
                "network_mode": "host",  # The test's Kafka answers on loopback.
            }
            engine.containers.run(image, ["walstream", "check"], environment=settings, remove=True, **where)
            containers[stage] = engine.containers.run(
                image,
                ["faust", "-A", topology, "worker", "--loglevel", "info"],
                environment=settings | {"WEB_PORT": str(free_port())},
                detach=True,
                **where,
            )
            stack.callback(containers[stage].remove, force=True, v=True)
        try:
            for stage in containers:
                sandbox.wait_ready(stage, timeout=120)
            with sandbox.producer(Workload(seed, source="/container"), limit=2_000) as producer:
                producer.join()
            sandbox.check(least=1_500)
            for container in containers.values():
                wait_until(lambda container=container: health(container) == "healthy", 120, "healthy")
                container.stop(timeout=60)
                assert container.wait()["StatusCode"] == 0
        except BaseException as error:
            for stage, container in containers.items():
                error.add_note(f"---- {stage}:\n{container.logs(tail=40).decode(errors='replace')}")
            raise


def health(container: Any) -> str:
    container.reload()
    return str(container.attrs["State"]["Health"]["Status"])


@pytest.mark.usefixtures("engine")
def test_servers_from_containers_keep_address_and_data() -> None:
    from confluent_kafka.admin import AdminClient, NewTopic

    with contextlib.closing(KafkaContainer()) as kafka:
        admin = AdminClient({"bootstrap.servers": kafka.address})
        admin.create_topics([NewTopic("kept", 1, 1)])["kept"].result(timeout=30)
        producer = Producer({"bootstrap.servers": kafka.address, "transactional.id": "t"})
        producer.init_transactions(60)  # What a node that cannot reach itself never finishes.
        producer.begin_transaction()
        producer.produce("kept", b"1")
        producer.commit_transaction(60)
        kafka.stop(kill=True)
        kafka.start()
        assert "kept" in AdminClient({"bootstrap.servers": kafka.address}).list_topics(timeout=30).topics
    with contextlib.closing(CassandraContainer()) as cassandra:
        from walstream.local.cql import connect

        with connect(cassandra.address) as session:
            assert session.run("SELECT release_version FROM system.local").rows[0][0].startswith("5.")
