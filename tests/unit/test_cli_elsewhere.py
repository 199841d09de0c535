"""What is printed for other producers, where it can be seen without running it."""

import pytest

from walstream.cli.elsewhere import Elsewhere, NotPossible
from walstream.client.write import Composed
from walstream.kafka import KafkaConnection

SECURE = KafkaConnection(("kafka:9093",), protocol="SASL_SSL", mechanism="PLAIN", username="ann", password="s3cret")


def elsewhere(value: bytes | None = b"x", key: bytes | None = b"k", header: bytes | None = b"h") -> Elsewhere:
    return Elsewhere(SECURE, "flights.ingress", Composed("1", key, value, [("h", header)]))


@pytest.mark.parametrize("tool", ["kcat", "console", "curl", "python"])
def test_no_secret_is_printed(tool: str) -> None:
    assert "s3cret" not in elsewhere().show(tool)


def test_secrets_come_from_the_environment() -> None:
    assert "os.environ['WALSTREAM_KAFKA_SASL_PASSWORD']" in elsewhere().python()
    assert '-X sasl.password="$WALSTREAM_KAFKA_SASL_PASSWORD"' in elsewhere().kcat()


@pytest.mark.parametrize(
    ("tool", "record"),
    [
        ("kcat", {"key": b"\xff"}),
        ("kcat", {"header": b"\x00"}),
        ("kcat", {"value": bytes(range(256))}),
        ("console", {"value": b"two\nlines"}),
        ("console", {"value": b"\xff"}),
        ("console", {"key": b"|~^#;%@!$&*+<>?`"}),
    ],
)
def test_what_a_tool_cannot_write_is_said(tool: str, record: dict[str, bytes]) -> None:
    with pytest.raises(NotPossible, match="--print python can"):
        elsewhere(**record).show(tool)
