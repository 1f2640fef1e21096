-- Forgets a recorded container that the engine shows as never started.
--
-- arg 1 job, 2 lease, 3 container
-- replies  OK
--
-- Invariant: the job is again one that has no container, so that it may be launched. Repeating changes nothing.

local job, lease, container = arg(1), arg(2), arg(3)
local it = fields(job, 'lease', 'state', 'container', 'exit_code', 'intent')
if it[1] ~= lease then
  return stale('another supervisor has taken over, or the job is not known')
elseif not LIVE[it[2]] or it[4] then
  return stale('the job has ended')
elseif it[3] and it[3] ~= container then
  return stale('another container is recorded')
elseif not it[3] then
  return reply('OK')
end
redis.call('HDEL', key('job:' .. job), 'engine', 'container', 'image_digest', 'started_ms')
if not it[5] then
  redis.call('HDEL', key('job:' .. job), 'reason')
end
if it[2] == 'running' then
  set_state(job, 'starting')
  news('s', job)
end
raise()
return reply('OK')
