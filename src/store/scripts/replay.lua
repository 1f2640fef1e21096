-- Sends a webhook's events once more, or leaves some out.
--
-- arg 1 its name, 2 the event to go on after
-- replies  OK
--          NONE   there is none of that name
--
-- Invariant: dead letters whose events are sent again are none any more. Failures are forgotten, and a delivery under way records
-- nothing any more.

local name, after = arg(1), arg(2)
if redis.call('HEXISTS', key('webhooks'), name) == 0 then
  return reply('NONE')
end
local function place(cursor)
  local ms, number = string.match(cursor, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(number)
end
local ms, number = place(after)
for _, letter in ipairs(redis.call('XRANGE', key('dead:' .. name), '-', '+')) do
  local its_ms, its_number = place(letter[2][2])
  if its_ms > ms or (its_ms == ms and its_number > number) then
    redis.call('XDEL', key('dead:' .. name), letter[1])
  end
end
redis.call('HDEL', key('webhook:' .. name), 'tries', 'failures', 'since_ms', 'next_ms', 'error')
redis.call('HSET', key('webhook:' .. name), 'after', after)
raise()
redis.call('HSET', key('webhooks'), name, digits(counter))
return reply('OK')
