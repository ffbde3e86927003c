#!lua name=tailrace_lists_1
-- Writes the lists of a whole batch of users, newest version wins. Loaded by flink_jobs/list_store.py.
-- A change of what is stored or returned is a new number in both names: two releases run side by side
-- while a deployment rolls.
--
-- KEYS  four a user: rec, meta, session, features
-- ARGV  1: TTL in seconds, 2: of a tombstone
--       3: JSON, a list of one entry a user:
--          [version, score/item pairs, meta field/value pairs, session items, feature field/value pairs]
--          or [version] to erase
-- Reply one a user: 1 kept, 0 older, 2 erased, or the stored list of an equal version:
--       [the meta fields, item/score pairs best first]

local META_FIELDS = {'rec_id', '_v', '_wm', '_t', '_epoch', '_model', 'variant', '_mark', 'propensities', 'sources', 'order'}

local function stored_version(meta)
  local stored = redis.pcall('HMGET', meta, '_v', '_erased')
  if stored.err then return false, false end  -- the key is of another type: it is replaced
  return stored[1], stored[2]
end

local function put_lists(keys, argv)
  local call = redis.call
  local ttl, tombstone_ttl = argv[1], argv[2]
  local replies = {}
  for n, entry in ipairs(cjson.decode(argv[3])) do
    local k = 4 * n - 3
    local rec, meta, session, features = keys[k], keys[k + 1], keys[k + 2], keys[k + 3]
    local version = entry[1]
    local stored, erased = stored_version(meta)
    if stored and (stored > version or (stored == version and erased)) then
      replies[n] = 0
    elseif entry[2] == nil then
      call('DEL', rec, meta, session, features)
      call('HSET', meta, '_v', version, '_erased', '1')
      call('EXPIRE', meta, tombstone_ttl)
      replies[n] = 2
    elseif stored == version then
      replies[n] = {call('HMGET', meta, unpack(META_FIELDS)), call('ZREVRANGE', rec, 0, -1, 'WITHSCORES')}
    else
      call('DEL', rec, meta, session, features)
      call('HSET', meta, unpack(entry[3]))
      call('EXPIRE', meta, ttl)
      if entry[2][1] then
        call('ZADD', rec, unpack(entry[2]))
        call('EXPIRE', rec, ttl)
      end
      if entry[4][1] then
        call('RPUSH', session, unpack(entry[4]))
        call('EXPIRE', session, ttl)
      end
      if entry[5][1] then
        call('HSET', features, unpack(entry[5]))
        call('EXPIRE', features, ttl)
      end
      replies[n] = 1
    end
  end
  return replies
end

redis.register_function('tailrace_put_lists_1', put_lists)
