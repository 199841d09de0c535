"""Sources: where a store of copies reads rows that it was told to forget."""

from walstream.sinks.source.base import Answer, Found, Gone, Source, Wanted

__all__ = ["Answer", "Found", "Gone", "Source", "Wanted"]
