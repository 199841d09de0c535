"""The sink for secondary indexes: a table of Cassandra kept in step with the mutations of a base table."""

from walstream.sinks.index.options import IndexOptions
from walstream.sinks.index.reader import IndexReader
from walstream.sinks.index.sink import IndexSink

__all__ = ["IndexOptions", "IndexReader", "IndexSink"]
