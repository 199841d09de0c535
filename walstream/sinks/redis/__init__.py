"""The sink `redis`: mutations as ordinary keys of a Redis, decided by effective time."""

from walstream.sinks.redis.sink import RedisOptions, RedisSink

__all__ = ["RedisOptions", "RedisSink"]
