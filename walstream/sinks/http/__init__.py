"""The http sink: CloudEvents over HTTP to an application."""

from walstream.sinks.http.sink import HttpOptions, HttpSink

__all__ = ["HttpOptions", "HttpSink"]
