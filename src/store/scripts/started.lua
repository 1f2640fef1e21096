-- starting → running; a recorded intent stays. A: id, lease. Replies: OK | STALE why. Repeating is harmless.
local id, lease = unpack(A)
local refused = stale(id, lease)
if refused then return refused end
local job = key('job:' .. id)
local state = call('HGET', job, 'state')
if ENDED[state] then return reply('STALE', 'the job has ended') end
if call('HSETNX', job, 'started_ms', int(now())) == 0 and state ~= 'starting' then return reply('OK') end
if state == 'starting' then call('HSET', job, 'state', 'running') end
news('s', id)
return changed('OK')
