-- Records a container that runs or ran without being recorded. A: id, lease, engine, container. Replies: OK | STALE why.
local id, lease, engine, container = unpack(A)
local refused = stale(id, lease)
if refused then return refused end
local job = call('HMGET', key('job:' .. id), 'inventory', 'state', 'container')
if call('HGET', key('locks'), job[1]) ~= id then return reply('STALE', 'the lock is not this job\'s') end
if ENDED[job[2]] then return reply('STALE', 'the job has ended') end
if job[3] == container then return reply('OK') end
if job[3] then return reply('STALE', 'another container is recorded') end
call('HSET', key('job:' .. id), 'engine', engine, 'container', container)
return changed('OK')
