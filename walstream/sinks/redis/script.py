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

One call has the rows of many mutations, and does them in their order:

=============================== ======================================================================================
``KEYS``                        Of each row the two.
``ARGV[1]``, ``ARGV[2]``        The form, and how long (ms) the marks of a row that is deleted are kept.
the others                      Of each row its time, and behind that, of a put, how many columns it has, followed by
                                name and text of each.
the answer                      A text with a byte for each row: ``1`` it took effect, ``0`` it changes nothing, ``-``
                                it cannot be done; then the errors of these, in their order.
=============================== ======================================================================================

The script checks a row before it writes it, since Redis undoes nothing of a script that fails in the middle. Redis
itself refuses for want of memory only a script that has not written yet, and a delete it takes always: puts behind one
would go through however full it is. So a call of several rows asks first, with a write that does nothing.

Replicas and the AOF are given what a script did, not the script, and a call's changes as one.
"""

from __future__ import annotations

from hashlib import sha1
from typing import Final

LUA: Final = """\
local form, expiry = ARGV[1], ARGV[2]
local call, width = redis.call, 20
local kind = form == 'hash' and 'hash' or 'string'

local function fault(key, wanted)
  local found = call('TYPE', key)['ok']
  if found ~= 'none' and found ~= wanted then
    return redis.error_reply('WRONGTYPE ' .. key .. ' is a ' .. found .. ', not a ' .. wanted)
  end
end

-- What Redis says where it has no memory for a put. The SET does nothing; another error comes with the first write.
local function full()
  local key = KEYS[1]
  local answer = redis.pcall('SET', key, '', call('EXISTS', key) == 1 and 'NX' or 'XX')
  return answer and string.find(answer['err'], '^OOM') and answer
end

-- Not by Lua's own comparison, which goes by the server's locale.
local function larger(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x > y end
  end
  return #a > #b
end

local function written(main, name, mark)
  if form == 'json' then return string.sub(mark, width + 1) end
  local value
  if form == 'hash' then value = call('HGET', main, name) else value = call('GET', main) end
  return value and '=' .. value or ''
end

local function clear(main, name)
  if form == 'hash' then call('HDEL', main, name) elseif form == 'column' then call('DEL', main) end
end

local function finish(main, marks)
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
  return '1'
end

local function delete(main, marks, time)
  local deleted = call('HGET', marks, '')
  if deleted and time <= deleted then return '0' end
  local all, newer = call('HGETALL', marks), 0
  for i = 1, #all, 2 do
    if all[i] ~= '' then
      if string.sub(all[i + 1], 1, width) <= time then
        call('HDEL', marks, all[i])
        clear(main, all[i])
      else
        newer = newer + 1
      end
    end
  end
  if newer == 0 then call('DEL', main) end
  call('HSET', marks, '', time)
  return finish(main, marks)
end

local function put(main, marks, time, first, columns, refused)
  local names = {''}
  for i = 1, columns do names[i + 1] = ARGV[first + 2 * i - 2] end
  local known = call('HMGET', marks, unpack(names))
  if known[1] and time <= known[1] then return '0' end
  local changed = false
  for i = 1, columns do
    local name, text, mark, newer = names[i + 1], ARGV[first + 2 * i - 1], known[i + 1], true
    if mark then
      local before = string.sub(mark, 1, width)
      if before == time then
        local old = written(main, name, mark)
        newer = old ~= '' and (text == '' or larger(text, old))
      else
        newer = before < time
      end
    end
    if newer then
      if refused then return refused end
      changed = true
      call('HSET', marks, name, form == 'json' and time .. text or time)
      if text == '' then
        clear(main, name)
      elseif form == 'hash' then
        call('HSET', main, name, string.sub(text, 2))
      elseif form == 'column' then
        call('SET', main, string.sub(text, 2))
      end
    end
  end
  return changed and finish(main, marks) or '0'
end

local refused = #KEYS > 2 and full()
local answers, codes, at = {''}, {}, 3
for row = 1, #KEYS / 2 do
  local main, marks, head = KEYS[2 * row - 1], KEYS[2 * row], ARGV[at]
  local time, columns = string.sub(head, 1, width), tonumber(string.sub(head, width + 1))
  local code = fault(main, kind) or fault(marks, 'hash')
  if not code then
    code = columns and put(main, marks, time, at + 1, columns, refused) or delete(main, marks, time)
  end
  if type(code) == 'table' then
    answers[#answers + 1], code = code, '-'
  end
  codes[row] = code
  at = at + 1 + 2 * (columns or 0)
end
answers[1] = table.concat(codes)
return answers
"""

SHA: Final = sha1(LUA.encode(), usedforsecurity=False).hexdigest().encode()
"""By which Redis knows a script that it was given."""

COLUMNS_MAX: Final = 1_000
"""Columns of one mutation. Lua hands on some thousand arguments in one call and no more."""


def time_text(time: int) -> bytes:
    """An effective time (microseconds, 64 bits) as 20 digits that compare as the times do: 1 and the microseconds.

    Times before 1970 begin with 0, and the microseconds count from the earliest time of 64 bits.
    """
    return b"1%019d" % time if time >= 0 else b"0%019d" % (time + 2**63)
