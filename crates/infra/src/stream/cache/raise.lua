-- Sets each version that is greater than the one there. ARGV[1]: life in ms; ARGV[i + 1]: the version for KEYS[i].
-- Answers what is there then.
local there = {}
for i, key in ipairs(KEYS) do
  local old = redis.pcall('GET', key)
  old = type(old) == 'string' and old:match('^%d+$') and tonumber(old) or 0
  local new = tonumber(ARGV[i + 1])
  if new > old then
    redis.call('SET', key, ARGV[i + 1], 'PX', ARGV[1])
    old = new
  end
  there[i] = old
end
return there
