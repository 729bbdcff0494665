"""What runs inside the server: each script is one step that others see whole or not at all.

Keys of a workspace, behind its prefix: ``meta`` (counters, format), ``events`` (seq -> row),
``ids`` (event_id -> seq), ``user:U`` (seqs by time), ``impressions`` (id -> row), ``shown`` and
``shown:U`` (arrival and id by time), ``base`` (the loaded generation) with ``base:G`` (user ->
events), ``generations``, ``changes`` (seq -> row) and ``changed`` (seq -> sign and item id).
Rows are JSON arrays in the order of their schemas. KEYS[1] is the prefix itself.
"""

COMMIT = """
local p, at, fresh = KEYS[1], 2, {}
for n = 1, tonumber(ARGV[1]) do
  local id, user, time, row = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  at = at + 4
  fresh[n] = 0
  if redis.call('HEXISTS', p .. 'ids', id) == 0 then
    local seq = redis.call('HINCRBY', p .. 'meta', 'seq', 1)
    redis.call('HSET', p .. 'ids', id, seq)
    redis.call('HSET', p .. 'events', seq, row)
    redis.call('ZADD', p .. 'user:' .. user, time, string.format('%016d', seq))
    fresh[n] = 1
  end
end
while at <= #ARGV do
  local id, user, time, row = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  at = at + 4
  if redis.call('HSETNX', p .. 'impressions', id, row) == 1 then
    local place = string.format('%016d', redis.call('HINCRBY', p .. 'meta', 'shown', 1)) .. id
    redis.call('ZADD', p .. 'shown', time, place)
    if user ~= '' then redis.call('ZADD', p .. 'shown:' .. user, time, place) end
  end
end
return fresh
"""
"""Number of events; id, user, time and row of each; then the same of each impression."""

READ_AFTER = """
local p, found = KEYS[1], {}
local seq, limit = tonumber(ARGV[1]), tonumber(ARGV[2])
local last = tonumber(redis.call('HGET', p .. 'meta', 'seq') or '0')
while seq < last and #found < 2 * limit do
  seq = seq + 1
  local row = redis.call('HGET', p .. 'events', seq)
  if row then
    found[#found + 1] = seq
    found[#found + 1] = row
  end
end
return found
"""
"""seq, limit -> seq and row in turn."""

HISTORY = """
local p, user, limit = KEYS[1], ARGV[1], tonumber(ARGV[2])
local current = redis.call('HMGET', p .. 'base', 'generation', 'ingested_through')
local through, base = tonumber(current[2] or '0'), false
if current[1] then base = redis.call('HGET', p .. 'base:' .. current[1], user) end
local rows, from = {}, 0
while #rows < limit do
  local page = redis.call('ZREVRANGE', p .. 'user:' .. user, from, from + limit - 1)
  for _, seq in ipairs(page) do
    if tonumber(seq) > through and #rows < limit then
      rows[#rows + 1] = redis.call('HGET', p .. 'events', tonumber(seq))
    end
  end
  if #page < limit then break end
  from = from + limit
end
return {base or '', rows}
"""
"""user, limit -> the base's JSON, and rows of the log, newest first."""

SHOWN = """
local p, key, found = KEYS[1], KEYS[1] .. ARGV[1], {}
for _, place in ipairs(redis.call('ZREVRANGE', key, 0, tonumber(ARGV[2]) - 1)) do
  found[#found + 1] = redis.call('HGET', p .. 'impressions', string.sub(place, 17))
end
return found
"""
"""``shown`` or ``shown:U``, limit -> rows of impressions, newest first."""

EXPORT = """
local p, user = KEYS[1], ARGV[1]
local events, shown, base = {}, {}, false
local seqs = redis.call('ZRANGE', p .. 'user:' .. user, 0, -1)
table.sort(seqs)
for _, seq in ipairs(seqs) do
  events[#events + 1] = redis.call('HGET', p .. 'events', tonumber(seq))
end
for _, place in ipairs(redis.call('ZRANGE', p .. 'shown:' .. user, 0, -1)) do
  shown[#shown + 1] = redis.call('HGET', p .. 'impressions', string.sub(place, 17))
end
local current = redis.call('HGET', p .. 'base', 'generation')
if current then base = redis.call('HGET', p .. 'base:' .. current, user) end
return {events, shown, base or ''}
"""
"""user -> rows of events in order of arrival, of impressions in order of time, the base's JSON."""

ERASE = """
local p, user = KEYS[1], ARGV[1]
local events, shown, histories = 0, 0, 0
for _, seq in ipairs(redis.call('ZRANGE', p .. 'user:' .. user, 0, -1)) do
  local row = redis.call('HGET', p .. 'events', tonumber(seq))
  redis.call('HDEL', p .. 'ids', cjson.decode(row)[tonumber(ARGV[2])])
  events = events + redis.call('HDEL', p .. 'events', tonumber(seq))
end
for _, place in ipairs(redis.call('ZRANGE', p .. 'shown:' .. user, 0, -1)) do
  shown = shown + redis.call('HDEL', p .. 'impressions', string.sub(place, 17))
  redis.call('ZREM', p .. 'shown', place)
end
redis.call('DEL', p .. 'user:' .. user, p .. 'shown:' .. user)
for _, generation in ipairs(redis.call('SMEMBERS', p .. 'generations')) do
  histories = histories + redis.call('HDEL', p .. 'base:' .. generation, user)
end
if events + shown + histories > 0 then redis.call('HSET', p .. 'meta', 'must_forget', 1) end
return {events, shown, histories, tonumber(redis.call('HGET', p .. 'meta', 'must_forget') or '0')}
"""
"""user, place of event_id in a row -> deleted events, impressions, histories; whether the files
still hold what was deleted, now or by an erasure that was interrupted."""

FINISH_BASE = """
local p, mine = KEYS[1], tonumber(ARGV[1])
local current = tonumber(redis.call('HGET', p .. 'base', 'generation') or '0')
if mine > current then
  redis.call('HSET', p .. 'base', 'generation', mine, 'release', ARGV[2])
  redis.call('HSET', p .. 'base', 'ingested_through', ARGV[3])
  current = mine
end
for _, generation in ipairs(redis.call('SMEMBERS', p .. 'generations')) do
  if tonumber(generation) < current then
    redis.call('UNLINK', p .. 'base:' .. generation)
    redis.call('SREM', p .. 'generations', generation)
  end
end
"""
"""generation, release, ingested_through: readers see it from now on; older ones go."""

APPEND_CHANGES = """
local p, last = KEYS[1], 0
for at = 1, #ARGV, 2 do
  last = redis.call('HINCRBY', p .. 'meta', 'changes', 1)
  redis.call('HSET', p .. 'changed', last, ARGV[at])
  redis.call('HSET', p .. 'changes', last, ARGV[at + 1])
end
return last
"""
"""sign and item id, and row, of each change -> seq of the last one."""

CHANGES_AFTER = """
local p, found = KEYS[1], {}
local last = tonumber(redis.call('HGET', p .. 'meta', 'changes') or '0')
for seq = tonumber(ARGV[2]) + 1, last do
  found[#found + 1] = redis.call('HGET', p .. ARGV[1], seq)
end
return found
"""
"""``changes`` or ``changed``, seq -> what came after it; the first one is seq + 1."""
