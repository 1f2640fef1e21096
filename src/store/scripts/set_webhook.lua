-- Makes a webhook, or changes one.
--
-- arg 1 its name, 2 '1' to replace the secret of one that is there, 3 the secret, encrypted, 4 the event to go on after or '',
-- 5, 6, 7, 8, … field and value
-- replies  NEW          the secret is the one given
--          OK           changed
--          MANY count   there are so many that no further one is made
--
-- Invariant: a new one begins with what happens next, one that is there goes on where it was, unless it is said where; its
-- failures are forgotten. Its version is a new one, so that a delivery under way records nothing about it any more.

local name = arg(1)
local hook = key('webhook:' .. name)
local new = redis.call('EXISTS', hook) == 0
if new and redis.call('HLEN', key('webhooks')) >= 100 then
  return reply('MANY', redis.call('HLEN', key('webhooks')))
end
local after = arg(4)
if new and after == '' then
  local newest = redis.call('XREVRANGE', key('events'), '+', '-', 'COUNT', 1)[1]
  after = newest and newest[1] or '0-0'
end
raise()
redis.call('HDEL', hook, 'streak', 'error')
local i = 5
while arg(i) do
  redis.call('HSET', hook, arg(i), arg(i + 1))
  i = i + 2
end
if new or arg(2) == '1' then
  redis.call('HSET', hook, 'sealed', arg(3))
end
if after ~= '' then
  forget_letters(name, after)
  redis.call('HSET', hook, 'after', after)
end
redis.call('HSET', key('webhooks'), name, digits(counter))
return reply(new and 'NEW' or 'OK')
