"""The sink `memcached`: mutations as ordinary keys of a memcached, decided by effective times kept beside it."""

from walstream.sinks.memcached.sink import MemcachedOptions, MemcachedSink

__all__ = ["MemcachedOptions", "MemcachedSink"]
