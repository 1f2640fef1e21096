-- Records the wish to end a job. Anyone with the right to it may; no lease is asked for.
--
-- arg 1 job, 2 intent, 3 the outcome that it leads to, 4 reason or '', 5 retention in ms
-- replies  OK record   the record after it
--          NONE        no such job
--
-- Invariant: one intent is recorded, and none once the exit code is, so that the order of the two decides the outcome. A job that
-- waits has no container and ends at once.

local job, intent, outcome, reason, retention = arg(1), arg(2), arg(3), arg(4), arg(5)
local it = fields(job, 'state', 'intent', 'exit_code', 'inventory')
if not it[1] then
  return reply('NONE')
end
if LIVE[it[1]] and not it[2] and not it[3] then
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
