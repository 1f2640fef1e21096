-- Last step of the end: the outcome, and the lock freed or handed over, in one. A: id, lease, outcome, reason ('' for none).
-- Replies: OK | OK next fence lease inventory | STALE why.
-- Invariant: the outcome is set once; the lock is freed only if it is this job's. Repeating is harmless: a next holder whose
-- reply was lost is found by the reconciler.
local id, lease, outcome, reason = unpack(A)
local refused = stale(id, lease)
if refused then return refused end
local inventory, state = unpack(call('HMGET', key('job:' .. id), 'inventory', 'state'))
if ENDED[state] then return reply('OK') end
end_job(id, outcome, reason)
if call('HGET', key('locks'), inventory) ~= id then return changed('OK') end
call('HDEL', key('locks'), inventory)
local next_id, fence = next_holder(inventory)
if not next_id then return changed('OK') end
return changed('OK', next_id, fence, '1', inventory)
