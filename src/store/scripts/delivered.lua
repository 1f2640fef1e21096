-- Records what came of sending events to a webhook.
--
-- arg 1 its name, 2 the version that the sender knows, 3 the last event that is dealt with, 4 failures in a row as JSON,
-- 5 what went wrong or '', 6 '1' if an event has just arrived, 7, 8, 9, 10, … events that are given up, and why
-- replies  OK
--
-- Invariant: written by the dispatcher that delivers alone, about the webhook as it knows it; written twice, it is as if once. Progress
-- is no change of state: the counter stays, since an event may be sent twice.

local name = arg(1)
if redis.call('GET', key('deliverer')) ~= dispatcher then
  return stale('another dispatcher delivers to webhooks')
elseif redis.call('HGET', key('webhooks'), name) ~= arg(2) then
  return stale('the webhook was changed')
end
local hook = key('webhook:' .. name)
redis.call('HSET', hook, 'after', arg(3), 'streak', arg(4), 'error', arg(5))
if arg(6) == '1' then
  redis.call('HSET', hook, 'delivered_ms', digits(now()))
end
local i = 7
while arg(i) do
  local last = redis.call('XREVRANGE', key('dead:' .. name), '+', '-', 'COUNT', 1)[1]
  if not last or last[2][2] ~= arg(i) then
    redis.call('XADD', key('dead:' .. name), 'MAXLEN', 1000, '*', 'event', arg(i), 'error', arg(i + 1))
  end
  i = i + 2
end
return reply('OK')
