-- Removes a webhook with all that is known of it.
--
-- arg 1 its name
-- replies  OK
--          NONE   there is none of that name
--
-- Invariant: a delivery under way records nothing about it any more.

if redis.call('HDEL', key('webhooks'), arg(1)) == 0 then
  return reply('NONE')
end
redis.call('DEL', key('webhook:' .. arg(1)), key('dead:' .. arg(1)))
raise()
return reply('OK')
