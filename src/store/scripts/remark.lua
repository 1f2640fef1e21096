-- Records why a job does not get on, where nothing is recorded yet.
--
-- arg 1 job, 2 lease, 3 the reason
-- replies  OK
--
-- Invariant: what was recorded with an intent stays. Launching anew takes the remark back.

local job, lease, reason = arg(1), arg(2), arg(3)
local it = fields(job, 'lease', 'state', 'reason')
if it[1] ~= lease then
  return stale('another supervisor has taken over, or the job is not known')
elseif LIVE[it[2]] and not it[3] then
  redis.call('HSET', key('job:' .. job), 'reason', reason)
  set_state(job, it[2])
  raise()
  news('s', job)
end
return reply('OK')
