-- Records the container that was created for a job: the step after which it may be started.
--
-- arg 1 job, 2 lease, 3 inventory, 4 fence, 5 engine, 6 container, 7 image digest
-- replies  OK
--
-- Invariant: refused unless the lock is this job's with this fence, the lease is the supervisor's, the job is starting with no intent
-- and no end recorded, and no other container is recorded. Whoever is refused removes the container it has created.

local job, lease, inventory, fence, engine, container, digest = arg(1), arg(2), arg(3), arg(4), arg(5), arg(6), arg(7)
local it = fields(job, 'lease', 'state', 'intent', 'exit_code', 'fence', 'container')
if it[1] ~= lease then
  return stale('another supervisor has taken over, or the job is not known')
elseif redis.call('HGET', key('locks'), inventory) ~= job or it[5] ~= fence then
  return stale('the lock is not this job\'s')
elseif it[2] ~= 'starting' or it[3] or it[4] then
  return stale('the job is to end, or has ended')
elseif it[6] and it[6] ~= container then
  return stale('another container is recorded')
end
redis.call('HSET', key('job:' .. job), 'engine', engine, 'container', container, 'image_digest', digest)
raise()
return reply('OK')
