-- Sends a webhook's events once more, or leaves some out.
--
-- arg 1 its name, 2 the event to go on after
-- replies  OK
--          NONE   there is none of that name
--
-- Invariant: failures are forgotten, and a delivery under way records nothing any more.

local name, after = arg(1), arg(2)
if redis.call('HEXISTS', key('webhooks'), name) == 0 then
  return reply('NONE')
end
forget_letters(name, after)
redis.call('HDEL', key('webhook:' .. name), 'streak', 'error')
redis.call('HSET', key('webhook:' .. name), 'after', after)
raise()
redis.call('HSET', key('webhooks'), name, digits(counter))
return reply('OK')
