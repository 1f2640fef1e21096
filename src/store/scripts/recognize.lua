-- Records a container of the job that was found unrecorded, in whatever phase.
--
-- arg 1 job, 2 lease, 3 inventory, 4 fence, 5 engine, 6 container
-- replies  OK
--
-- Invariant: as `confirm`, but for intents: a container that runs has to be known in order to be ended.

local job, lease, inventory, fence, engine, container = arg(1), arg(2), arg(3), arg(4), arg(5), arg(6)
local it = fields(job, 'lease', 'state', 'exit_code', 'fence', 'container')
if it[1] ~= lease then
  return stale('another supervisor has taken over, or the job is not known')
elseif redis.call('HGET', key('locks'), inventory) ~= job or it[4] ~= fence then
  return stale('the lock is not this job\'s')
elseif not LIVE[it[2]] or it[3] then
  return stale('the job has ended')
elseif it[5] and it[5] ~= container then
  return stale('another container is recorded')
end
redis.call('HSET', key('job:' .. job), 'engine', engine, 'container', container)
raise()
return reply('OK')
