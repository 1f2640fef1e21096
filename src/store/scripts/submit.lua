-- Admission: takes the lock and creates the job, or puts it into the queue, or refuses.
--
-- arg 1 job, 2 app, 3 inventory, 4 action, 5 when_busy, 6 sealed secrets, 7 hash of the Idempotency-Key or '',
-- 8 digest of the request, 9 retention in ms
--
-- replies  STARTED fence lease   it has the lock, under the caller's supervision
--          QUEUED position       it waits, counted from 1
--          EXISTS job            this request was accepted before
--          KEYREUSED             the key was used with another request
--          BUSY job              reject: the inventory is held, or waited for, by that job
--          RESERVED release      reject: the next to get it is that release
--          FROZEN freeze         reject: the inventory is frozen
--
-- Invariant: asking again with the same job changes nothing, and gives the caller whose first reply was lost its lock. A request
-- displaces those of the same app and action that wait with `queue`, and takes the place of the first of them; one that waits with
-- `fifo` is never displaced. Nobody overtakes another app's request.

local job, app, inventory, action = arg(1), arg(2), arg(3), arg(4)
local when_busy, sealed, idempotency, digest, retention = arg(5), arg(6), arg(7), arg(8), arg(9)
local queue = key('queue:' .. inventory)
local holder = redis.call('HGET', key('locks'), inventory)

local own = fields(job, 'state', 'owner', 'lease', 'fence')
if own[1] then
  if own[1] == 'starting' and own[2] == dispatcher and own[3] == '1' and holder == job then
    return reply('STARTED', own[4], own[3])
  end
  local place = redis.call('LPOS', queue, job)
  if own[1] == 'queued' and place then
    return reply('QUEUED', place + 1)
  end
  return reply('EXISTS', job)
end

local idempotency_key = key('idem:' .. app .. ':' .. idempotency)
if idempotency ~= '' then
  local used = redis.call('GET', idempotency_key)
  if used then
    local before, request = string.match(used, '^(%S+) (.*)$')
    if request == digest then
      return reply('EXISTS', before)
    end
    return reply('KEYREUSED')
  end
end

local waiting, displaced = 0, {}
local place
local first
for _, other in ipairs(redis.call('LRANGE', queue, 0, -1)) do
  local it = fields(other, 'state', 'deployment_id', 'action', 'when_busy')
  if it[1] == 'queued' then
    waiting = waiting + 1
    first = first or other
    if when_busy == 'queue' and it[4] == 'queue' and it[2] == app and it[3] == action then
      place = place or waiting
      displaced[#displaced + 1] = other
    end
  end
end
place = place or waiting + 1

local freeze = frozen(inventory)
local reserved = redis.call('HGET', key('reserved'), inventory)
if when_busy == 'reject' then
  if freeze then
    return reply('FROZEN', freeze)
  elseif holder or first then
    return reply('BUSY', holder or first)
  elseif reserved then
    return reply('RESERVED', reserved)
  end
end

begin(job, app, inventory, action, when_busy, sealed)
-- Here, because where no job comes no event does.
redis.call('XTRIM', key('events'), 'MINID', '~', digits(now() - retention))
if idempotency ~= '' then
  redis.call('SET', idempotency_key, job .. ' ' .. digest, 'EX', 86400)
end

local starts = not holder and not freeze and not reserved and place == 1
if not starts then
  if displaced[1] then
    redis.call('LINSERT', queue, 'BEFORE', displaced[1], job)
  else
    redis.call('RPUSH', queue, job)
  end
  redis.call('SADD', key('queues'), inventory)
end
for _, other in ipairs(displaced) do
  leave_queue(inventory, other)
  redis.call('HSET', key('job:' .. other), 'superseded_by', job)
  end_job(other, 'superseded')
  retire(other, retention)
end
raise()
if starts then
  return reply('STARTED', take(inventory, job), '1')
end
return reply('QUEUED', place)
