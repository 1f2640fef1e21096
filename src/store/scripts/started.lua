-- Records that the container was started: starting → running; an intent recorded meanwhile stays.
--
-- arg 1 job, 2 lease
-- replies  OK
--
-- Invariant: only a job with a recorded container runs. Repeating changes nothing.

local job, lease = arg(1), arg(2)
local it = fields(job, 'lease', 'state', 'container', 'started_ms')
if it[1] ~= lease then
  return stale('another supervisor has taken over, or the job is not known')
elseif not LIVE[it[2]] or not it[3] then
  return stale('the job has ended, or has no container')
elseif it[4] then
  return reply('OK')
end
set_state(job, it[2] == 'starting' and 'running' or it[2], 'started_ms', digits(now()))
raise()
news('s', job)
return reply('OK')
