"""Cancel and reschedule by the client and the command line, against a real Kafka. The test is the router."""

import asyncio
import dataclasses
import json
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError
from click.testing import CliRunner, Result
from confluent_kafka import Consumer, Producer, TopicPartition

from walstream import AsyncClient, Client, Durable, Receipt, RecordRefused, Write
from walstream.answers import Answer
from walstream.cli import main
from walstream.client.producer import DiscardableProducer
from walstream.errors import TopicMismatch
from walstream.pending import Outcome
from walstream.record import Record, parse
from walstream.testing.history import Observed
from walstream.testing.readback import Readback

PARTITIONS = 3
SOURCE = "/ops"

Decide = Callable[[Record], Answer | None]


def cancelled(record: Record) -> Answer:
    return Answer(record.action, record.id, record.source, record.ref or "", Outcome.CANCELLED)


class Router:
    """Answers the actions in an ingress, in transactions, as a router does. It decides nothing: `decide` does."""

    def __init__(self, brokers: str, namespace: str) -> None:
        self.decide: Decide = cancelled
        self._namespace = namespace
        self._consumer = Consumer(
            {"bootstrap.servers": brokers, "group.id": uuid.uuid4().hex, "auto.offset.reset": "earliest"}
        )
        self._consumer.assign([TopicPartition(f"{namespace}.ingress", number, 0) for number in range(PARTITIONS)])
        self._producer = Producer({"bootstrap.servers": brokers, "transactional.id": f"test-{namespace}"})
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Router":
        self._producer.init_transactions(30)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._consumer.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            message = self._consumer.poll(0.1)
            if message is None or message.error() is not None:
                continue
            record = parse(message.key(), message.value(), message.headers() or [], 0)
            if record.action == "write" or (answer := self.decide(record)) is None:
                continue
            key, value, headers = answer.encode(message.key())
            self._producer.begin_transaction()
            self._producer.produce(
                f"{self._namespace}.answers", value, key, partition=message.partition(), headers=headers
            )
            self._producer.commit_transaction(30)


@pytest.fixture
def namespace(make_topic: Callable[..., str], prefix: str) -> str:
    make_topic("ingress", partitions=PARTITIONS)
    make_topic("answers", partitions=PARTITIONS)
    return prefix


@pytest.fixture
def router(brokers: str, namespace: str) -> Iterator[Router]:
    with Router(brokers, namespace) as router:
        yield router


@pytest.fixture
def ingress(brokers: str, namespace: str) -> Callable[[], list[tuple[Observed, Record]]]:
    readback = Readback({"bootstrap.servers": brokers})

    def ingress() -> list[tuple[Observed, Record]]:
        seen = readback.records(f"{namespace}.ingress")
        return [(each, parse(each.key, each.value, list(each.headers), 0)) for each in seen]

    return ingress


@asynccontextmanager
async def client_of(brokers: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(brokers, source=SOURCE) as client:
        yield client


async def test_a_cancel_is_answered(brokers: str, namespace: str, router: Router) -> None:
    async with client_of(brokers) as client:
        await client.write(namespace, b"x", key="UA1", id="w", delay="1h")
        receipt = await client.cancel(namespace, "w", key="UA1", id="c", wait=30)
    assert (receipt.durable, receipt.error) == (Durable.TRUE, None)
    assert receipt.answer == Answer("cancel", "c", SOURCE, "w", Outcome.CANCELLED)


async def test_a_reschedule_says_the_new_time(
    brokers: str, namespace: str, router: Router, ingress: Callable[[], list[tuple[Observed, Record]]]
) -> None:
    router.decide = lambda record: Answer(
        record.action, record.id, record.source, record.ref or "", Outcome.RESCHEDULED, due=record.deliver_at
    )
    async with client_of(brokers) as client:
        receipt = await client.reschedule(namespace, "w", key="UA1", deliver_at="2030-01-01T00:00:00Z", wait=30)
    assert receipt.answer is not None
    assert (receipt.answer.outcome, receipt.answer.due) == (Outcome.RESCHEDULED, 1_893_456_000_000_000)
    ((_, record),) = ingress()
    assert (record.action, record.ref, record.payload, record.key) == ("reschedule", "w", None, b"UA1")


@pytest.mark.parametrize("key", [None, "UA1"])
async def test_an_action_comes_into_the_partition_of_its_write(brokers: str, namespace: str, key: str | None) -> None:
    ids = [f"w{number}" for number in range(20)]
    async with client_of(brokers) as client:
        writes = await client.write_many(namespace, [Write(b"", key=key, id=id_, delay="1h") for id_ in ids])
        cancels = [await client.cancel(namespace, id_, key=key) for id_ in ids]
        moves = await client.write_many(
            namespace, [Write(None, key=key, action="reschedule", ref=id_, delay="2h") for id_ in ids]
        )
    assert len({receipt.partition for receipt in writes}) == (PARTITIONS if key is None else 1)
    for receipts in (cancels, moves):
        assert [receipt.partition for receipt in receipts] == [receipt.partition for receipt in writes]


async def test_answers_to_others_and_old_ones_are_not_ours(brokers: str, namespace: str, router: Router) -> None:
    async with client_of(brokers) as client:
        # Who uses the same id again, of another source or of this one, earlier.
        assert (await client.cancel(namespace, "w", key="k", id="c", wait=30)).answer is not None
        router.decide = lambda record: None
        other = Answer("cancel", "c", "/others", "w", Outcome.SENT, log_position=7)
        producer = Producer({"bootstrap.servers": brokers})
        key, value, headers = other.encode(b"k")

        async def disturb() -> None:
            producer.produce(f"{namespace}.answers", b"nonsense", key)
            producer.produce(f"{namespace}.answers", value, key, headers=headers)
            assert producer.flush(10) == 0

        receipt, _ = await asyncio.gather(client.cancel(namespace, "w", key="k", id="c", wait=1), disturb())
    assert receipt.durable is Durable.TRUE
    assert receipt.answer is None
    assert "is a router running" in str(receipt.error)


async def test_many_wait_at_once_and_one_after_the_other(brokers: str, namespace: str, router: Router) -> None:
    router.decide = lambda record: Answer(
        record.action, record.id, record.source, record.ref or "", Outcome.SENT, log_position=int(record.ref or "")
    )
    async with client_of(brokers) as client:
        for start in (0, 50):
            receipts = await asyncio.gather(
                *(client.cancel(namespace, str(n), key=f"k{n}", wait=30) for n in range(start, start + 50))
            )
            positions = [receipt.answer.log_position for receipt in receipts if receipt.answer is not None]
            assert positions == list(range(start, start + 50))


async def test_without_a_wait_nothing_is_read(brokers: str, make_topic: Callable[..., str], prefix: str) -> None:
    make_topic("ingress")
    async with client_of(brokers) as client:
        receipt = await client.cancel(prefix, "w", key="k")
        assert (receipt.durable, receipt.answer, receipt.error) == (Durable.TRUE, None, None)
        missing = await client.cancel(prefix, "w", key="k", wait=5)
    assert missing.durable is Durable.FALSE
    assert isinstance(missing.error, TopicMismatch)


async def test_what_cannot_be_is_not_written(
    brokers: str, namespace: str, ingress: Callable[[], list[tuple[Observed, Record]]]
) -> None:
    async with client_of(brokers) as client:
        for receipt, code in (
            (await client.reschedule(namespace, "w", key="k", wait=5), "bad-schedule"),
            (await client.reschedule(namespace, "w", key="k", delay=1, deliver_at=1), "bad-schedule"),
            (await client.reschedule(namespace, "w", key="k", delay=-1), "bad-duration"),
            (await client.cancel(namespace, "", key="k"), "empty-attribute"),
        ):
            assert receipt.durable is Durable.FALSE
            assert isinstance(receipt.error, RecordRefused)
            assert receipt.error.code == code
    assert ingress() == []


async def test_an_error_as_answers_are_read_is_told_and_not_for_ever(
    brokers: str, namespace: str, router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Answer:
        raise ConnectionError("cut off")

    async with client_of(brokers) as client:
        with monkeypatch.context() as context:
            context.setattr("walstream.client.listener.read_answer", broken)
            receipt = await client.cancel(namespace, "w", key="k", wait=30)
        assert (receipt.durable, receipt.answer, str(receipt.error)) == (Durable.TRUE, None, "cut off")
        again = await client.cancel(namespace, "w", key="k", wait=30)
    assert again.answer is not None


async def test_who_is_answered_was_written(
    brokers: str, namespace: str, router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    produce = DiscardableProducer.produce

    async def cut_off(*arguments: Any) -> None:
        await produce(*arguments)
        raise KafkaConnectionError("cut off")

    async with client_of(brokers) as client:
        with monkeypatch.context() as context:
            context.setattr(DiscardableProducer, "produce", cut_off)
            assert (await client.cancel(namespace, "w", key="k")).durable is Durable.UNKNOWN
            receipt = await client.cancel(namespace, "w", key="k", wait=30)
    assert (receipt.durable, receipt.error) == (Durable.TRUE, None)
    assert receipt.answer is not None


def test_the_blocking_client(brokers: str, namespace: str, router: Router) -> None:
    with Client(brokers) as client:
        receipt: Receipt = client.cancel(namespace, "w", key="k", wait=30)
        assert receipt.answer is not None and receipt.answer.done
        assert client.reschedule(namespace, "w", key="k", delay="1h").durable is Durable.TRUE


# The command line

Run = Callable[..., Result]


@pytest.fixture
def run(brokers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, namespace: str) -> Run:
    monkeypatch.setenv("WALSTREAM_BROKERS", brokers)
    monkeypatch.setenv("WALSTREAM_CONFIG", str(tmp_path))
    return lambda command, *arguments: CliRunner().invoke(main, [command, namespace, *arguments])


def test_cancel(run: Run, router: Router) -> None:
    for outcome, status, said in (
        (Outcome.CANCELLED, 0, "CANCELLED: w is cancelled"),
        (Outcome.WAITING, 0, "WAITING: w was not written yet; the cancel waits for it"),
        (Outcome.SENT, 1, "SENT: w is in the log already, at position 5"),
        (Outcome.SUPERSEDED, 1, "SUPERSEDED: something newer was said about w; nothing is changed"),
        (Outcome.EXPIRED, 1, "EXPIRED: w had expired, and was not sent"),
    ):
        answer = Answer("cancel", "c", "s", "w", outcome, log_position=5 if outcome is Outcome.SENT else None)
        router.decide = lambda record, answer=answer: dataclasses.replace(answer, id=record.id, source=record.source)  # type: ignore[misc]
        result = run("cancel", "w", "--key", "UA1", "--wait", "30s")
        assert (result.exit_code, result.stdout) == (status, said + "\n"), result.output


def test_reschedule(run: Run, router: Router) -> None:
    router.decide = lambda record: Answer(
        "reschedule", record.id, record.source, "w", Outcome.RESCHEDULED, due=record.deliver_at
    )
    arguments = ("w", "--key", "UA1", "--deliver-at", "2030-01-01T01:00:00+01:00")
    result = run("reschedule", *arguments, "--source", "/ops", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["outcome"], document["due"], document["error"]) == ("rescheduled", "2030-01-01T00:00:00Z", None)
    assert run("reschedule", *arguments).stdout == "RESCHEDULED: w is due at 2030-01-01T00:00:00Z\n"


def test_no_answer(run: Run) -> None:
    result = run("cancel", "w", "--key", "UA1", "--wait", "1s", "--action-id", "c")
    assert result.exit_code == 1
    assert "WRITTEN: the cancel of w is in" in result.stdout
    assert "no answer within 1 s" in result.stderr
    result = run("cancel", "w", "--key", "UA1", "--wait", "0s", "--action-id", "c")
    assert (result.exit_code, result.stderr) == (0, "")


def test_lines_of_actions(run: Run, tmp_path: Path, ingress: Callable[[], list[tuple[Observed, Record]]]) -> None:
    lines = [
        {"payload": "x", "key": "k", "id": "1", "delay": "10m", "jitter": "PT30S"},
        {"action": "cancel", "ref": "1", "key": "k"},
        {"action": "reschedule", "ref": "1", "key": "k", "delay": "1h"},
        {"action": "cancel", "ref": "1", "key": "k", "payload": "x"},
        {"action": "reschedule", "ref": "1", "key": "k"},
        {"payload": "x", "key": "k", "id": "2", "delay": "P1M"},
    ]
    (tmp_path / "lines").write_text("\n".join(json.dumps(line) for line in lines))
    result = run("write", "--ndjson", "--file", str(tmp_path / "lines"))
    assert result.stdout == "TRUE 3, FALSE 3, UNKNOWN 0\n"
    assert [(record.action, record.ref, record.delay, record.jitter) for _, record in ingress()] == [
        ("write", None, 600_000_000, 30_000_000),
        ("cancel", "1", None, None),
        ("reschedule", "1", 3_600_000_000, None),
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ("cancel",),
        ("cancel", "w", "--wait", "soon"),
        ("cancel", "w", "--print", "kcat"),
        ("reschedule", "w"),
        ("reschedule", "w", "--delay", "1m", "--deliver-at", "2030-01-01T00:00:00Z"),
    ],
)
def test_wrong_usage(run: Run, arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2, result.output


def test_another_tool_is_shown_the_headers(run: Run) -> None:
    result = run("cancel", "w", "--key", "UA1", "--action-id", "c", "--print", "kcat")
    for header in ("ce_walaction=cancel", "ce_walref=w", "ce_id=c"):
        assert f"-H {header}" in result.stdout
