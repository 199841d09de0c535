"""The sink for Apache Cassandra: mutations become rows, by effective time."""

from walstream.sinks.cassandra.sink import CassandraOptions, CassandraSink

__all__ = ["CassandraOptions", "CassandraSink"]
