-- Confirms a launch: records the container. A: id, lease, engine, container, image.
-- Replies: OK | STALE why. Refused unless lock and lease are this job's still, it is starting, and no intent is recorded.
local id, lease, engine, container, image = unpack(A)
local refused = stale(id, lease)
if refused then return refused end
local job = call('HMGET', key('job:' .. id), 'inventory', 'state', 'intent', 'container')
if call('HGET', key('locks'), job[1]) ~= id then return reply('STALE', 'the lock is not this job\'s') end
if job[4] == container then return reply('OK') end
if job[2] ~= 'starting' or job[3] then return reply('STALE', 'the job is to be ended') end
if job[4] then return reply('STALE', 'another container is recorded') end
call('HSET', key('job:' .. id), 'engine', engine, 'container', container, 'image', image)
return changed('OK')
