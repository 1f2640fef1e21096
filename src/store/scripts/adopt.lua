-- Takes over the supervision of a live job by raising its lease.
--
-- arg 1 job, 2 the lease that the caller has seen
-- replies  HELD job fence lease inventory
--          NONE   another was first, or its supervisor gives signs of life, or it has ended, or it waits
--
-- Invariant: of those who have seen a lease, one raises it; every write under the old lease is stale from then on.

local job, seen = arg(1), arg(2)
local state, lease, owner, inventory, fence = unpack(fields(job, 'state', 'lease', 'owner', 'inventory', 'fence'))
if not LIVE[state] or state == 'queued' or lease ~= seen or not inventory or not fence then
  return reply('NONE')
end
if owner and owner ~= dispatcher and redis.call('EXISTS', key('dispatcher:' .. owner)) == 1 then
  return reply('NONE')
end
lease = digits(lease + 1)
redis.call('HSET', key('job:' .. job), 'lease', lease, 'owner', dispatcher)
raise()
return reply('HELD', job, fence, lease, inventory)
