-- A user's sessions. KEYS: index of the user. ARGV: key prefix. Gives {id, fields…} for each; forgets those that have ended.
local all = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local fields = redis.call('HMGET', ARGV[1] .. id, 'role', 'client', 'generation', 'created', 'used', 'expires')
  if fields[1] then
    table.insert(all, {id, fields[1], fields[2], fields[3], fields[4], fields[5], fields[6]})
  else
    redis.call('ZREM', KEYS[1], id)
  end
end
return all
