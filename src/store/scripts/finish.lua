-- Step 3 of the end: sets the outcome, frees the lock or hands it to the next, starts the retention.
--
-- arg 1 job, 2 lease, 3 outcome, 4 reason or '', 5 retention in ms, 6 '1': only if no container is recorded
-- replies  HELD job fence lease   the next holder of the lock, under the caller's supervision
--          NONE                   nobody waits, or the inventory is frozen, or the lock was not this job's
--
-- Invariant: the outcome is set once; the lock goes from one holder to the next without being free in between. Repeating changes
-- nothing; a next holder of whom the caller did not hear is adopted.

local job, lease, outcome, reason, retention = arg(1), arg(2), arg(3), arg(4), arg(5)
local it = fields(job, 'lease', 'state', 'inventory', 'deployment_id', 'reason', 'container')
if it[1] ~= lease then
  return stale('another supervisor has taken over, or the job is not known')
end
local inventory, app = it[3], it[4]

if not LIVE[it[2]] then
  return reply('NONE')
elseif arg(6) == '1' and it[6] then
  return stale('the job has been launched')
end

-- What was recorded with an intent says more about its outcome than what is seen at the end; of any other outcome, less.
local intended = outcome == 'canceled' or outcome == 'timed_out'
if reason ~= '' and not (intended and it[5]) then
  redis.call('HSET', key('job:' .. job), 'reason', reason)
end
end_job(job, outcome)
if outcome == 'succeeded' then
  local last = redis.call('GET', key('lastok:' .. app))
  if last and last ~= job then
    retire(last, retention)
  end
  redis.call('SET', key('lastok:' .. app), job)
else
  retire(job, retention)
end
raise()
if redis.call('HGET', key('locks'), inventory) == job then
  redis.call('HDEL', key('locks'), inventory)
  local next_job, fence = hand_over(inventory)
  if next_job then
    return reply('HELD', next_job, fence, '1')
  end
end
return reply('NONE')
