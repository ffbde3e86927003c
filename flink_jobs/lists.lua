#!lua name=tailrace_lists_2
-- Writes the lists of a whole batch of users, newest version wins. Loaded by flink_jobs/list_store.py.
-- A change of what is stored or returned is a new number in both names: two releases run side by side
-- while a deployment rolls.
--
-- KEYS  four a user: rec, meta, session, features
-- ARGV  1: TTL in seconds, of an erasure's mark too
--       then three a user: version, shape, pieces. The shape is a struct format: four bytes that count the
--       pieces of ZADD, HSET meta, RPUSH and HSET features, then every piece's length. Both are empty to
--       erase. (cjson took half of the whole cost to read the same.)
--       An erasure of offset 0 knows none of the user's events: it takes the offset that stands and wins over
--       every list with a smaller order number. Whoever sends it gives later lists at least its own.
-- Reply one a user: 1 kept, 0 older, 2 erased, or the stored list of an equal version:
--       {the meta fields, item/score pairs best first}. Where eviction took the rec key, it is written again.

local META_FIELDS = {'rec_id', '_v', '_wm', '_t', '_epoch', '_model', 'variant', '_mark', 'propensities', 'sources', 'order'}

local function put_lists(keys, argv)
  local call, pcall, read, sub = redis.call, redis.pcall, struct.unpack, string.sub
  local ttl = argv[1]
  local replies = {}
  local a = 2
  for k = 1, #keys, 4 do
    local rec, meta, session, features = keys[k], keys[k + 1], keys[k + 2], keys[k + 3]
    local version, shape, pieces = argv[a], argv[a + 1], argv[a + 2]
    a = a + 3
    local stored = pcall('HMGET', meta, '_v', '_erased')
    local stored_version, erased = stored[1], stored[2]
    if stored.err then stored_version = false end  -- the key is of another type: it is replaced
    if shape == '' and stored_version and sub(version, 5, 20) == '0000000000000000'
      and sub(stored_version, 1, 4) == sub(version, 1, 4) and sub(stored_version, 21) < sub(version, 21) then
      version = sub(stored_version, 1, 20) .. sub(version, 21)
    end
    local reply
    if stored_version and (stored_version > version or (stored_version == version and erased)) then
      reply = 0
    elseif shape == '' then
      call('DEL', rec, meta, session, features)
      call('HSET', meta, '_v', version, '_erased', '1')
      call('EXPIRE', meta, ttl)
      reply = 2
    else
      local part = {read(shape, pieces)}
      local to_rec = 4 + part[1]
      local to_meta = to_rec + part[2]
      local to_session = to_meta + part[3]
      local to_features = to_session + part[4]
      if stored_version == version and (to_rec == 4 or call('EXISTS', rec) == 1) then
        reply = {call('HMGET', meta, unpack(META_FIELDS)), call('ZREVRANGE', rec, 0, -1, 'WITHSCORES')}
      else
        call('DEL', rec, meta, session, features)
        call('HSET', meta, unpack(part, to_rec + 1, to_meta))
        call('EXPIRE', meta, ttl)
        if to_rec > 4 then
          call('ZADD', rec, unpack(part, 5, to_rec))
          call('EXPIRE', rec, ttl)
        end
        if to_session > to_meta then
          call('RPUSH', session, unpack(part, to_meta + 1, to_session))
          call('EXPIRE', session, ttl)
        end
        if to_features > to_session then
          call('HSET', features, unpack(part, to_session + 1, to_features))
          call('EXPIRE', features, ttl)
        end
        reply = 1
      end
    end
    replies[#replies + 1] = reply
  end
  return replies
end

redis.register_function('tailrace_put_lists_2', put_lists)
