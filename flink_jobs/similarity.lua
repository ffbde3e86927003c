#!lua name=tailrace_similarity_2
-- Writes what a batch of items goes with, newest version wins. Loaded by flink_jobs/similarity_store.py.
-- A change of what is stored or returned is a new number in both names: two releases run side by side
-- while a deployment rolls.
--
-- KEYS  three an item: similar, bought together, features
-- ARGV  1: TTL in seconds
--       then three an item: version, shape, pieces. The shape is a struct format: u16 counts of the pieces of
--       both ZADDs (score and id in turn, scores as doubles) and of HSET, then every piece.
-- Reply one an item: its category ('' where none is known); false where a newer version stands. An equal version
--       is written again: an item's own counts are the same, its neighbours' may have changed.

local function replace(key, ttl, part, from, to)
  redis.call('DEL', key)
  if to > from then
    redis.call('ZADD', key, unpack(part, from + 1, to))
    redis.call('EXPIRE', key, ttl)
  end
end

local function put_similar(keys, argv)
  local ttl = argv[1]
  local replies = {}
  local a = 2
  for k = 1, #keys, 3 do
    local similar, bought, features = keys[k], keys[k + 1], keys[k + 2]
    local version, shape, pieces = argv[a], argv[a + 1], argv[a + 2]
    a = a + 3
    local known = redis.call('HMGET', features, '_sim_v', 'category')
    if known[1] and known[1] > version then
      replies[#replies + 1] = false
    else
      local part = {struct.unpack(shape, pieces)}
      local to_similar = 3 + part[1]
      local to_bought = to_similar + part[2]
      local to_features = to_bought + part[3]
      replace(similar, ttl, part, 3, to_similar)
      replace(bought, ttl, part, to_similar, to_bought)
      redis.call('HSET', features, '_sim_v', version, unpack(part, to_bought + 1, to_features))
      replies[#replies + 1] = known[2] or ''
    end
  end
  return replies
end

-- Writes items' own counts, and reads those of others: one text each for all, which a client reads at once.
--
-- KEYS  1: the HASH of all items, 8 bytes to a double and an id
-- ARGV  1: fields to read, 8 bytes each
--       then fields and values to write first
-- Reply doubles, infinite where nothing is known; a byte an id, its length; ids.
local AT_ONCE = 1000 -- of what Lua puts on its stack

local function exchange_similar(keys, argv)
  for from = 2, #argv, AT_ONCE do
    redis.call('HSET', keys[1], unpack(argv, from, math.min(from + AT_ONCE - 1, #argv)))
  end
  local fields, doubles, sizes, ids = {}, {}, {}, {}
  for at = 1, #argv[1], 8 do
    fields[#fields + 1] = string.sub(argv[1], at, at + 7)
  end
  local unknown = struct.pack('<d', math.huge)
  for from = 1, #fields, AT_ONCE do
    local to = math.min(from + AT_ONCE - 1, #fields)
    local values = redis.call('HMGET', keys[1], unpack(fields, from, to))
    for n = 1, to - from + 1 do
      local value = values[n] or unknown
      doubles[from + n - 1] = string.sub(value, 1, 8)
      sizes[from + n - 1] = string.char(#value - 8)
      ids[from + n - 1] = string.sub(value, 9)
    end
  end
  return {table.concat(doubles), table.concat(sizes), table.concat(ids)}
end

redis.register_function('tailrace_put_similar_2', put_similar)
redis.register_function('tailrace_exchange_similar_2', exchange_similar)
