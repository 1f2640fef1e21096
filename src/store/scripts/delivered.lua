-- Records what came of sending events to a webhook.
--
-- arg 1 its name, 2 the version that the sender knows, 3 the last event that is dealt with, 4 tries of the next one, 5 failures in a row,
-- 6 the first of them in ms, 7 when to try again in ms, 8 what went wrong or '', 9 '1' if an event has just arrived,
-- 10, 11, 12, 13, … events that are given up, and why
-- replies  OK
--
-- Invariant: written by the dispatcher that delivers alone, about the webhook as it knows it. Progress is no change of state: the
-- counter stays, since an event may be sent twice.

local name = arg(1)
if redis.call('GET', key('deliverer')) ~= dispatcher then
  return stale('another dispatcher delivers to webhooks')
elseif redis.call('HGET', key('webhooks'), name) ~= arg(2) then
  return stale('the webhook was changed')
end
local hook = key('webhook:' .. name)
redis.call('HSET', hook, 'after', arg(3), 'tries', arg(4), 'failures', arg(5), 'since_ms', arg(6), 'next_ms', arg(7), 'error', arg(8))
if arg(9) == '1' then
  redis.call('HSET', hook, 'delivered_ms', digits(now()))
end
local i = 10
while arg(i) do
  redis.call('XADD', key('dead:' .. name), 'MAXLEN', 1000, '*', 'event', arg(i), 'error', arg(i + 1))
  i = i + 2
end
return reply('OK')
