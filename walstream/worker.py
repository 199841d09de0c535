"""Makes a worker's app from the environment, for the modules that the ``faust`` command is pointed at."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from walstream.engine.app import App
from walstream.errors import WalstreamError
from walstream.settings import Settings
from walstream.wire import COMPILED


def load(make: Callable[[Settings], App]) -> App:
    """Make the app, or end with a message and no traceback where the configuration is wrong."""
    try:
        app = make(Settings.load())
        import walstream.faust_commands  # noqa: F401 - registers them
    except WalstreamError as exc:
        print(f"walstream: {exc}", file=sys.stderr)
        raise SystemExit(1) from None
    if not COMPILED:
        logging.getLogger(__name__).warning(
            "walstream was installed without a C compiler: records are read and written in Python, which is much slower"
        )
    logging.getLogger("aiokafka").setLevel(logging.WARNING)
    # A broker that verifies a new transaction answers "not enough replicas" for a moment; each would be a line.
    logging.getLogger("aiokafka.producer.sender").setLevel(logging.ERROR)
    return app
