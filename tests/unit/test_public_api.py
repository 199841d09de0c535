"""What `import walstream` promises."""

import subprocess
import sys

import walstream


def test_everything_named_is_there() -> None:
    for name in walstream.__all__:
        assert getattr(walstream, name) is not None
    assert list(walstream.__all__) == sorted(walstream.__all__, key=lambda name: (not name.isupper(), name))


def test_nothing_public_is_missing() -> None:
    assert set(walstream.__all__) == {
        *("APPLIED", "DEAD", "RETRY", "SKIPPED", "TARGET_DOWN", "UNTRIED", "Answer", "Applied"),
        *("AsyncClient", "Client"),
        *("ConfigurationError", "Dead", "Durable", "Entry", "KafkaConnection", "Mutation", "NotDurable", "Receipt"),
        *(
            "RecordRefused",
            "Retry",
            "Found",
            "Gone",
            "Sink",
            "Source",
            "StatefulSink",
            "TargetDown",
            "WalstreamError",
            "Wanted",
            "Write",
            "__version__",
            "delete",
            "put",
        ),
    }
    assert dir(walstream) == sorted(walstream.__all__)


def test_the_import_is_cheap_and_the_client_needs_no_faust() -> None:
    code = (
        "import sys, walstream\n"
        "heavy = {'aiokafka', 'pydantic', 'cassandra', 'faust', 'rocksdict', 'confluent_kafka', 'orjson'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "walstream.Client\n"
        "heavy = {'cassandra', 'faust', 'rocksdict', 'confluent_kafka', 'rich'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
