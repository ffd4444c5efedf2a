-- Exchanges a refresh token. KEYS: session, index of the user.
-- ARGV: id, generation presented, its hash, hash of the successor, now, grace, expires (times in milliseconds).
-- Gives {what became of it, then the session's fields}.
local fields = redis.call('HMGET', KEYS[1],
  'generation', 'present', 'former', 'spent', 'expires', 'role', 'client', 'created', 'used')
local now = tonumber(ARGV[5])
if not fields[1] or tonumber(fields[5]) <= now then return {'unknown'} end
local generation, presented = tonumber(fields[1]), tonumber(ARGV[2])
if presented == generation and fields[2] == ARGV[3] then
  redis.call('HSET', KEYS[1], 'generation', generation + 1, 'present', ARGV[4],
    'former', ARGV[3], 'spent', ARGV[5], 'used', ARGV[5], 'expires', ARGV[7])
  redis.call('PEXPIREAT', KEYS[1], ARGV[7])
  redis.call('ZADD', KEYS[2], ARGV[7], ARGV[1])
  if redis.call('PEXPIRETIME', KEYS[2]) < tonumber(ARGV[7]) then
    redis.call('PEXPIREAT', KEYS[2], ARGV[7])
  end
  return {'rotated', fields[6], fields[7], tostring(generation + 1), fields[8], ARGV[5], ARGV[7]}
end
if presented + 1 == generation and fields[3] == ARGV[3] and now - tonumber(fields[4]) <= tonumber(ARGV[6]) then
  return {'replayed', fields[6], fields[7], fields[1], fields[8], fields[9], fields[5]}
end
if presented < generation then
  redis.call('DEL', KEYS[1])
  redis.call('ZREM', KEYS[2], ARGV[1])
  return {'revoked'}
end
return {'unknown'}
