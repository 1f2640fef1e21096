-- Gives the free, unfrozen lock of an inventory to the first that waits.
--
-- arg 1 inventory
-- replies  HELD job fence lease   the lock is that job's, under the caller's supervision
--          NONE                   held, frozen, reserved for a release, or nobody waits
--
-- Invariant: only a free lock is given, and to nobody but the first in the queue.

local inventory = arg(1)
if redis.call('HEXISTS', key('locks'), inventory) == 1 then
  return reply('NONE')
end
local job, fence = hand_over(inventory)
if not job then
  return reply('NONE')
end
raise()
return reply('HELD', job, fence, '1')
