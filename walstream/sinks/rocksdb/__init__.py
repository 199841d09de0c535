"""The sink `rocksdb`: mutations as rows of an embedded store, for the applications of the worker's own machine."""

from walstream.sinks.rocksdb.reader import Reader
from walstream.sinks.rocksdb.sink import RocksdbOptions, RocksdbSink

__all__ = ["Reader", "RocksdbOptions", "RocksdbSink"]
