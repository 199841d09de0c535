"""Workers where nothing goes without TLS and a password: Kafka by SASL_SSL, Cassandra by TLS and its authenticator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import Cluster

from walstream.local import Servers
from walstream.local.certificates import Certificates
from walstream.testing.waiting import wait_until
from walstream.testing.worker import Worker

NAMESPACE = """\
version: 1
namespace: secrets
topics: {partitions: 2, replication: 1}
key: "{name}"
targets:
  base:
    sink: cassandra
    connection: main
    options:
      keyspace: secrets
      table: secrets
      consistency: ONE
      create:
        replication: {class: SimpleStrategy, replication_factor: 1}
        columns: {name: text, told: int}
        primary_key: [name]
"""

CONNECTIONS = """\
main:
  sink: cassandra
  hosts: ["{host}:{port}"]
  username: cassandra
  password: {{env: TEST_CASSANDRA_PASSWORD}}
  ssl: {{cafile: {cafile}}}
"""


def rows(secure: Servers, certificates: Certificates) -> dict[str, int]:
    host, _, port = secure.cassandra.rpartition(":")
    login = PlainTextAuthProvider("cassandra", "cassandra")
    cluster = Cluster(
        [host], port=int(port), protocol_version=4, auth_provider=login, ssl_context=certificates.context()
    )
    try:
        return {row.name: row.told for row in cluster.connect().execute("SELECT name, told FROM secrets.secrets")}
    finally:
        cluster.shutdown()


def test_a_row_travels_from_a_client_to_cassandra(secure: Servers, certificates: Certificates, tmp_path: Path) -> None:
    host, _, port = secure.cassandra.rpartition(":")
    (tmp_path / "secrets.yaml").write_text(NAMESPACE)
    (tmp_path / "connections.yaml").write_text(CONNECTIONS.format(host=host, port=port, cafile=certificates.authority))
    environment = {
        "WALSTREAM_BROKERS": secure.address("kafka", "SASL_SSL"),
        "WALSTREAM_CONFIG": str(tmp_path),
        "WALSTREAM_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "WALSTREAM_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
        "WALSTREAM_KAFKA_SASL_USERNAME": "alice",
        "WALSTREAM_KAFKA_SASL_PASSWORD": "a secret of 5 words",
        "WALSTREAM_KAFKA_SSL_CAFILE": str(certificates.authority),
        "TEST_CASSANDRA_PASSWORD": "cassandra",
    }

    def walstream(*words: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "walstream", *words], env=os.environ | environment, capture_output=True, timeout=90
        )
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)

    walstream("apply", "--yes", "--json")
    router = Worker("topologies.router", tmp_path / "router", environment)
    base = Worker("topologies.delivery", tmp_path / "base", environment | {"WALSTREAM_TARGET": "secrets.base"})
    try:
        router.start()
        base.start()
        walstream("write", "secrets", "--row", "name=ann", "--set", "told=3", "--json")
        wait_until(lambda: rows(secure, certificates) == {"ann": 3}, 60, "the row is in Cassandra")
        assert (router.terminate(), base.terminate()) == (0, 0)
    finally:
        router.kill()
        base.kill()
