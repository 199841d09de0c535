"""Whether one server has all keys: only there may rows that have nothing in common share a call.

A cluster refuses a call whose keys are in several slots. A proxy that leads keys to servers by their names is worse: it
looks at a call's first key, and the rows of others would be written where nobody looks for them. What it answers to
INFO may be what one of these servers says. So INFO is asked in a script, which runs where its key leads: for many keys.
"""

from __future__ import annotations

from hashlib import sha1
from typing import Final

from redis.asyncio.connection import AbstractConnection

from walstream.sinks.redis.call import pack
from walstream.sinks.redis.session import exchange

KEYS: Final = 32
"""Keys that are asked about. That all of them are at one of two servers by chance happens once in 2 billion times."""

_LUA: Final = """\
local info = redis.call('INFO', 'server')
return string.match(info, 'redis_mode:(%a+)') .. ' ' .. string.match(info, 'run_id:(%x+)')
"""
_SHA: Final = sha1(_LUA.encode(), usedforsecurity=False).hexdigest().encode()


async def is_one_server(connection: AbstractConnection, prefix: bytes) -> bool:
    """Ask by a connection; False as well where the question is refused.

    Parameters
    ----------
    prefix
        What the keys begin with that are asked about. Nothing is read or written there.
    """
    questions = [pack([b"EVALSHA", _SHA, b"1", b"%b%d" % (prefix, number)]) for number in range(KEYS)]
    _, first, *others = await exchange(connection, [pack([b"SCRIPT", b"LOAD", _LUA.encode()]), *questions])
    return isinstance(first, bytes) and first.startswith(b"standalone ") and all(other == first for other in others)
