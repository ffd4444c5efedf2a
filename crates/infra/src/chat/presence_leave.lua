-- KEYS: leases, last seen. ARGV: connection, grace in ms, how long last seen is kept in ms.
-- True when nobody else of the user is there.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZREM', KEYS[1], ARGV[1])
local seen = math.max(now - ARGV[2], tonumber(redis.call('GET', KEYS[2]) or '0'))
redis.call('SET', KEYS[2], string.format('%.0f', seen), 'PX', ARGV[3])
return redis.call('ZCARD', KEYS[1]) == 0 and 1 or 0
