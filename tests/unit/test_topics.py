"""The topics of a namespace, and how they differ from what is found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from walstream import topics
from walstream.namespace import Namespace
from walstream.topics import Described, Topic
from walstream.units import DAY, HOUR


def namespace(**words: Any) -> Namespace:
    document = {"version": 1, "namespace": "flights", "targets": {"base": {"sink": "cassandra"}}}
    return Namespace.model_validate(document | words)


def found(topic: Topic, **changes: Any) -> Described:
    """The topic as it must be, among settings that do not matter, and what is changed."""
    config = {"retention.ms": "-1", "flush.ms": "9"} | dict(topic.config) | changes.pop("config", {})
    return replace(Described(topic.name, topic.partitions, topic.replication, config), **changes)


def test_names() -> None:
    assert [topic.name for topic in topics.all_topics(namespace())] == [
        "flights.ingress",
        "flights.log",
        "flights.dlq",
        "flights.answers",
        "flights.dedup.changelog",
        "flights.times.changelog",
        "flights.schedule.changelog",
        "flights.pending.changelog",
        "flights.base.retry",
        "flights.base.dlq",
        "flights.base.marks.changelog",
        "flights.base.schedule.changelog",
        "flights.base.blocked.changelog",
        "flights.base.parked.changelog",
        "flights.base.dead.changelog",
    ]
    assert topics.router_app_id() == "walstream.router"
    assert topics.router_app_id("west") == "walstream.router.west"
    assert topics.delivery_app_id(namespace(), "base") == "walstream.flights.base"


def test_a_target_whose_sink_keeps_rows_has_a_topic_for_them() -> None:
    ns = namespace()
    kept = ns.model_copy(update={"targets": {"base": ns.targets["base"].with_state()}})
    (added,) = {topic.name for topic in topics.all_topics(kept)} - {topic.name for topic in topics.all_topics(ns)}
    assert added == "flights.base.state.changelog"
    assert topics.target_changelogs(kept, "base")["state"].config["cleanup.policy"] == "compact"


def test_every_topic_has_the_namespaces_partitions_and_safety() -> None:
    ns = namespace(topics={"partitions": 7, "replication": 5, "min_insync": 3, "max_record": "2MB"})
    for topic in topics.all_topics(ns):
        assert (topic.partitions, topic.replication) == (7, 5)
        assert topic.config["min.insync.replicas"] == "3"
        assert topic.config["unclean.leader.election.enable"] == "false"
        assert topic.config["message.timestamp.type"] == "LogAppendTime"
        assert int(topic.config["max.message.bytes"]) >= 2 * 1024 * 1024 + 64 * 1024 + 61


def test_nothing_that_waits_is_deleted_by_age_or_size() -> None:
    ns = namespace()
    for topic in (
        topics.ingress(ns),
        topics.log(ns),
        topics.dlq(ns),
        topics.retry(ns, "base"),
        topics.target_dlq(ns, "base"),
        *topics.target_changelogs(ns, "base").values(),
        *(changelog for table, changelog in topics.router_changelogs(ns).items() if table != "dedup"),
    ):
        assert (topic.config["retention.ms"], topic.config["retention.bytes"]) == ("-1", "-1")


def test_dedup_rows_outlive_the_window_and_go() -> None:
    changelog = topics.router_changelogs(namespace(dedup={"window": "24h"}))["dedup"]
    assert changelog.config["cleanup.policy"] == "delete"
    assert 2 * DAY < int(changelog.config["retention.ms"]) <= 2 * DAY + HOUR
    assert int(changelog.config["segment.ms"]) <= DAY // 2


def test_what_is_written_each_second_is_compacted_soon() -> None:
    changelogs = topics.target_changelogs(namespace(), "base")
    assert [table for table, topic in changelogs.items() if "segment.bytes" in topic.config] == ["marks"]
    assert int(changelogs["marks"].config["segment.bytes"]) <= 16 * 1024 * 1024


def test_other_tables_are_compacted() -> None:
    router, target = topics.router_changelogs(namespace()), topics.target_changelogs(namespace(), "base")
    for changelog in (router["times"], router["schedule"], router["pending"], *target.values()):
        assert changelog.config["cleanup.policy"] == "compact"


def test_all_as_it_must_be() -> None:
    wanted = topics.all_topics(namespace())
    assert topics.verify(wanted, {topic.name: found(topic) for topic in wanted}) == []


def test_missing() -> None:
    (difference,) = topics.verify([topics.log(namespace())], {})
    assert (difference.setting, difference.fixable) == ("missing", True)
    assert str(difference) == "flights.log does not exist"
    assert "walstream apply" in difference.remedy


@pytest.mark.parametrize(
    ("changes", "setting", "fixable"),
    [
        ({"partitions": 13}, "partitions", False),
        ({"partitions": 11}, "partitions", False),
        ({"replication": 2}, "replication", False),
        ({"config": {"retention.ms": "604800000"}}, "retention.ms", True),
        ({"config": {"message.timestamp.type": "CreateTime"}}, "message.timestamp.type", True),
        ({"config": {"min.insync.replicas": "1"}}, "min.insync.replicas", True),
        ({"config": {"max.message.bytes": "1000"}}, "max.message.bytes", True),
        ({"config": {"cleanup.policy": "compact"}}, "cleanup.policy", False),
        ({"config": {"cleanup.policy": "compact,delete"}}, "cleanup.policy", False),
    ],
)
def test_one_difference(changes: dict[str, Any], setting: str, fixable: bool) -> None:
    log = topics.log(namespace())
    (difference,) = topics.verify([log], {log.name: found(log, **changes)})
    assert (difference.setting, difference.fixable) == (setting, fixable)
    assert difference.remedy


@pytest.mark.parametrize("changes", [{"replication": 4}, {"config": {"max.message.bytes": "99999999"}}])
def test_more_does_no_harm(changes: dict[str, Any]) -> None:
    log = topics.log(namespace())
    assert topics.verify([log], {log.name: found(log, **changes)}) == []


def adopting() -> Topic:
    return topics.ingress(namespace(topics={"names": {"ingress": "legacy"}}))


def test_an_adopted_topic_keeps_its_own_ways() -> None:
    ways = {"cleanup.policy": "delete", "retention.ms": str(30 * DAY), "message.timestamp.type": "CreateTime"}
    assert topics.verify([adopting()], {"legacy": Described("legacy", 12, 2, ways)}) == []


@pytest.mark.parametrize(
    ("described", "setting"),
    [
        (Described("legacy", 3, 3, {}), "partitions"),
        (Described("legacy", 12, 3, {"cleanup.policy": "compact"}), "cleanup.policy"),
        (Described("legacy", 12, 3, {"cleanup.policy": "delete", "retention.ms": "3600000"}), "retention.ms"),
        (Described("legacy", 12, 3, {"cleanup.policy": "delete", "retention.bytes": "1"}), "retention.bytes"),
    ],
)
def test_an_adopted_topic_that_loses_records(described: Described, setting: str) -> None:
    (difference,) = topics.verify([adopting()], {"legacy": described})
    assert (difference.setting, difference.fixable) == (setting, False)


def test_an_adopted_topic_is_never_made() -> None:
    (difference,) = topics.verify([adopting()], {})
    assert (difference.setting, difference.fixable) == ("missing", False)
