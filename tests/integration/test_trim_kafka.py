"""Trimming on a real Kafka."""

from __future__ import annotations

import time

import pytest

from walstream import topics
from walstream.admin import Admin
from walstream.kafka import KafkaConnection
from walstream.namespace import Namespace
from walstream.router.trim import trim


@pytest.fixture
def namespace(prefix) -> Namespace:
    return Namespace.model_validate(
        {
            "version": 1,
            "namespace": prefix,
            "topics": {"partitions": 1, "replication": 1, "retention": "1h"},
            "targets": {"copy": {"sink": "kafka", "options": {"topic": f"{prefix}-copy"}}},
        }
    )


def test_only_what_is_finished_and_old_goes(brokers, namespace):
    from confluent_kafka import Producer

    admin = Admin(KafkaConnection(tuple(brokers.split(","))))
    admin.create(topics.all_topics(namespace))
    producer = Producer({"bootstrap.servers": brokers})
    log = topics.log(namespace).name
    for number in range(10):
        producer.produce(log, value=str(number))
    producer.flush()
    admin.commit(topics.delivery_app_id(namespace, "copy"), {(log, 0): 6})

    assert trim(admin, namespace) == {}, "nothing is old enough"
    in_two_hours = time.time() + 7_200
    assert trim(admin, namespace, now=in_two_hours) == {(log, 0): 6}
    assert admin.offsets([(log, 0)], "earliest") == {(log, 0): 6}
    assert trim(admin, namespace, now=in_two_hours) == {}, "again: nothing to do"
