-- Asks whether this dispatcher is the one that delivers to webhooks, and takes that over from one that gives no sign of life.
--
-- replies  MINE names and versions   it is; of each webhook its name and version, in turn
--          OTHER                     another one is
--
-- Invariant: one dispatcher delivers at a time. One that was thought dead and is not may send once more what it was sending, which
-- is what "at least once" means, and records nothing any more.

local holder = redis.call('GET', key('deliverer'))
if holder ~= dispatcher and holder and redis.call('EXISTS', key('dispatcher:' .. holder)) == 1 then
  return reply('OTHER')
elseif holder ~= dispatcher then
  redis.call('SET', key('deliverer'), dispatcher)
end
return reply('MINE', redis.call('HGETALL', key('webhooks')))
