-- Stores a session. KEYS: session, index of the user. ARGV: id, role, client, hash, created, expires, most, key prefix.
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ARGV[5])
redis.call('HSET', KEYS[1], 'role', ARGV[2], 'client', ARGV[3], 'generation', 0, 'present', ARGV[4],
  'created', ARGV[5], 'used', ARGV[5], 'expires', ARGV[6])
redis.call('PEXPIREAT', KEYS[1], ARGV[6])
redis.call('ZADD', KEYS[2], ARGV[6], ARGV[1])
if redis.call('PEXPIRETIME', KEYS[2]) < tonumber(ARGV[6]) then
  redis.call('PEXPIREAT', KEYS[2], ARGV[6])
end
while redis.call('ZCARD', KEYS[2]) > tonumber(ARGV[7]) do
  local first = redis.call('ZPOPMIN', KEYS[2])
  redis.call('DEL', ARGV[8] .. first[1])
end
return 1
