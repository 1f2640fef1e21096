-- Records a token.
--
-- arg 1 its keyed hash, 2 whose it is, 3 when it expires in ms or 0, 4 the rest as JSON
-- replies  OK
--          TAKEN        a token of that name is in force
--          MANY count   there are so many that no further one is taken
--
-- Invariant: of each name there is one token at most. One that has expired is in nobody's way.

local tokens = redis.call('HGETALL', key('tokens'))
local expired = {}
for i = 1, #tokens, 2 do
  local name, ends = string.match(tokens[i + 1], '^(%S+) (%d+) ')
  if ends and ends ~= '0' and tonumber(ends) <= now() then
    table.insert(expired, tokens[i])
  elseif name == arg(2) then
    return reply('TAKEN')
  end
end
if #tokens / 2 - #expired >= 1000 then
  return reply('MANY', #tokens / 2)
end
for _, hash in ipairs(expired) do
  redis.call('HDEL', key('tokens'), hash)
end
redis.call('HSET', key('tokens'), arg(1), arg(2) .. ' ' .. arg(3) .. ' ' .. arg(4))
raise()
return reply('OK')
