"""The script that decides a write inside Redis, which runs a script as one step.

A row has two keys. The first is for everybody to read. The second, its marks, is a hash of what is needed to decide:

===================== ================================================================================================
field                 value
===================== ================================================================================================
a column              The time of its last write; of the form ``json`` followed by what was written, since a part of a
                      text cannot be replaced. A column that was set to null keeps its time.
the empty name        The time of the row's last delete. No mutation has a column of that name.
===================== ================================================================================================

Times are texts of one length (`time_text`), which compare as the times do: a number in Lua has 53 bits only. A written
value is its text behind ``=``, and null is nothing.

The script checks first and writes then, since Redis undoes nothing of a script that fails in the middle. Redis itself
refuses for want of memory only a script that has not written yet.
"""

from __future__ import annotations

from hashlib import sha1
from typing import Final

LUA: Final = """\
local main, marks = KEYS[1], KEYS[2]
local form, op, time, expiry = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local call, width = redis.call, #time

local function fault(key, wanted)
  local kind = call('TYPE', key)['ok']
  if kind ~= 'none' and kind ~= wanted then
    return redis.error_reply('WRONGTYPE ' .. key .. ' is a ' .. kind .. ', not a ' .. wanted)
  end
end

-- Not by Lua's own comparison, which goes by the server's locale.
local function larger(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x > y end
  end
  return #a > #b
end

local function written(name, mark)
  if form == 'json' then return string.sub(mark, width + 1) end
  local value
  if form == 'hash' then value = call('HGET', main, name) else value = call('GET', main) end
  return value and '=' .. value or ''
end

local function clear(name)
  if form == 'hash' then call('HDEL', main, name) elseif form == 'column' then call('DEL', main) end
end

local function finish()
  if form == 'json' then
    local all, names, texts = call('HGETALL', marks), {}, {}
    for i = 1, #all, 2 do
      if all[i] ~= '' and #all[i + 1] > width then
        names[#names + 1] = all[i]
        texts[all[i]] = string.sub(all[i + 1], width + 2)
      end
    end
    if #names == 0 then
      call('DEL', main)
    else
      table.sort(names)
      for i, name in ipairs(names) do names[i] = name .. ':' .. texts[name] end
      call('SET', main, '{' .. table.concat(names, ',') .. '}')
    end
  end
  if call('EXISTS', main) == 1 then call('PERSIST', marks) else call('PEXPIRE', marks, expiry) end
  return 1
end

local refused = fault(main, form == 'hash' and 'hash' or 'string') or fault(marks, 'hash')
if refused then return refused end

if op == 'delete' then
  local deleted = call('HGET', marks, '')
  if deleted and time <= deleted then return 0 end
  local all, newer = call('HGETALL', marks), 0
  for i = 1, #all, 2 do
    if all[i] ~= '' then
      if string.sub(all[i + 1], 1, width) <= time then
        call('HDEL', marks, all[i])
        clear(all[i])
      else
        newer = newer + 1
      end
    end
  end
  if newer == 0 then call('DEL', main) end
  call('HSET', marks, '', time)
  return finish()
end

local names = {''}
for i = 5, #ARGV, 2 do names[#names + 1] = ARGV[i] end
local known = call('HMGET', marks, unpack(names))
if known[1] and time <= known[1] then return 0 end
local changed = false
for i = 2, #names do
  local name, text, mark, newer = names[i], ARGV[2 * i + 2], known[i], true
  if mark then
    local before = string.sub(mark, 1, width)
    if before == time then
      local old = written(name, mark)
      newer = old ~= '' and (text == '' or larger(text, old))
    else
      newer = before < time
    end
  end
  if newer then
    changed = true
    call('HSET', marks, name, form == 'json' and time .. text or time)
    if text == '' then
      clear(name)
    elseif form == 'hash' then
      call('HSET', main, name, string.sub(text, 2))
    elseif form == 'column' then
      call('SET', main, string.sub(text, 2))
    end
  end
end
if not changed then return 0 end
return finish()
"""

SHA: Final = sha1(LUA.encode(), usedforsecurity=False).hexdigest()
"""By which Redis knows a script that it was given."""

COLUMNS_MAX: Final = 1_000
"""Columns of one mutation. Lua hands on some thousand arguments in one call and no more."""


def time_text(time: int) -> bytes:
    """An effective time (microseconds, 64 bits) as 20 digits that compare as the times do: 1 and the microseconds.

    Times before 1970 begin with 0, and the microseconds count from the earliest time of 64 bits.
    """
    return b"1%019d" % time if time >= 0 else b"0%019d" % (time + 2**63)
