-- Takes a token back.
--
-- arg 1 whose it is
-- replies  OK
--          NONE   there is no token of that name
--
-- Invariant: from then on it opens nothing.

local tokens = redis.call('HGETALL', key('tokens'))
local found = false
for i = 1, #tokens, 2 do
  if string.match(tokens[i + 1], '^(%S+) ') == arg(1) then
    redis.call('HDEL', key('tokens'), tokens[i])
    found = true
  end
end
if not found then
  return reply('NONE')
end
raise()
return reply('OK')
