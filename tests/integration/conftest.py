"""A Kafka to which all clients come by a proxy, for what is tested over a bad network; a module has one of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from walstream.local.ports import free_port
from walstream.testing.proxy import Proxy
from walstream.testing.servers import Server


@pytest.fixture(scope="module")
def advertised() -> int:
    """Choose the port to which the Kafka sends its clients, and where the tests put a proxy."""
    return free_port()


@pytest.fixture(scope="module")
def kafka(make_kafka: Callable[..., Server], advertised: int) -> Server:
    """Start a Kafka that sends its clients to the proxy."""
    return make_kafka(advertised=advertised)


@pytest.fixture
async def proxy(kafka: Server, advertised: int) -> AsyncIterator[Proxy]:
    """Put the proxy there."""
    assert kafka.proxied is not None
    async with Proxy(kafka.proxied.host, kafka.proxied.port, listen_port=advertised) as proxy:
        yield proxy
