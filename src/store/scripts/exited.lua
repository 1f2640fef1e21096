-- Step 1 of the end: records the exit code.
--
-- arg 1 job, 2 lease, 3 exit code, 4 reason or ''
-- replies  OK record   the record after it
--
-- Invariant: the first exit code stays, and no intent is recorded after it.

local job, lease, exit_code, reason = arg(1), arg(2), arg(3), arg(4)
local it = fields(job, 'lease', 'state', 'exit_code', 'reason')
if it[1] ~= lease then
  return stale('another supervisor has taken over, or the job is not known')
end
if LIVE[it[2]] and not it[3] then
  redis.call('HSET', key('job:' .. job), 'exit_code', exit_code)
  if reason ~= '' and not it[4] then
    redis.call('HSET', key('job:' .. job), 'reason', reason)
  end
  news('s', job)
  raise()
end
return reply('OK', fields(job, unpack(FIELDS)))
