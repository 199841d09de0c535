"""Delivery: log and retry topic -> sink, one worker (and one consumer group) per target."""
