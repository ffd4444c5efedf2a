-- One call in a sliding window. KEYS: the window. ARGV: limit, window in microseconds.
-- Gives {allowed, used, microseconds until the decisive call falls out}. A refused call does not count.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local limit, window = tonumber(ARGV[1]), tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - window)
local used = redis.call('ZCARD', KEYS[1])
if used < limit then
  redis.call('ZADD', KEYS[1], now, string.format('%.0f-%d', now, used))
  redis.call('PEXPIRE', KEYS[1], math.ceil(window / 1000))
  return {1, used + 1, window}
end
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
local left = window
if first[2] then left = math.max(0, tonumber(first[2]) + window - now) end
return {0, used, left}
