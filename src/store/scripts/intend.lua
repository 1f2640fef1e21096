-- Records the wish to end a job: somebody's who has the right to it, or a deadline that the job's supervisor has seen pass.
--
-- arg 1 job, 2 the supervisor's lease, or '' when people ask, 3 intent, 4 the outcome that it leads to, 5 reason or '',
-- 6 retention in ms
-- replies  OK record   the record after it
--          NONE        no such job
--
-- Invariant: one intent is recorded, and none once the exit code is, so that the order of the two decides the outcome; only that its
-- engine is gone for good can be said of a job that is to be canceled already. A job that waits has no container and ends at once.

local job, lease, intent, outcome, reason, retention = arg(1), arg(2), arg(3), arg(4), arg(5), arg(6)
local it = fields(job, 'state', 'intent', 'exit_code', 'inventory', 'lease')
if not it[1] then
  return reply('NONE')
elseif lease ~= '' and it[5] ~= lease then
  return stale('another supervisor has taken over')
end
if LIVE[it[1]] and not it[3] and (not it[2] or intent == 'engine_gone') then
  redis.call('HSET', key('job:' .. job), 'intent', intent, 'intent_ms', digits(now()))
  if reason ~= '' then
    redis.call('HSET', key('job:' .. job), 'reason', reason)
  end
  if it[1] == 'queued' then
    leave_queue(it[4], job)
    end_job(job, outcome)
    retire(job, retention)
  else
    set_state(job, 'canceling')
    news('s', job)
  end
  raise()
end
return reply('OK', fields(job, unpack(FIELDS)))
