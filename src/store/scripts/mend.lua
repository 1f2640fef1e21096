-- Makes a record anew that could not be read: from the job's container; or, if there is none, as that of a lost job.
--
-- arg 1 the engine's id, 2 retention in ms, then eight of the job, as `rescued_at` reads them, then the fields of the record as they
-- were read, in order ('' for none), then the outcome that could be read, or '', then fields and values that could be
-- replies  OK
--          NONE   something else stands there by now; nothing was changed
--
-- Invariant: what another has mended meanwhile is left alone, and what has ended stays ended. Else the job ends `lost`, or goes on
-- under nobody's supervision, and what its container has printed is taken in from the beginning.

local engine, retention = arg(1), arg(2)
local it = rescued_at(3)
local was = fields(it.job, unpack(FIELDS))
for n = 1, #FIELDS do
  if (was[n] or '') ~= arg(10 + n) then
    return reply('NONE')
  end
end
local sealed = fields(it.job, 'sealed')[1]
local outcome = arg(11 + #FIELDS)
leave_queue(it.inventory, it.job)
create(it, outcome ~= '' and outcome or nil)
local i = 12 + #FIELDS
while arg(i) do
  redis.call('HSET', key('job:' .. it.job), arg(i), arg(i + 1))
  i = i + 2
end
-- No container says whose job it is; the release or the order that waits for it does, and is to hear of its end.
for _, kind in ipairs({ 'release', 'order' }) do
  local of = fields(it.job, kind)[1]
  for _, id in ipairs(of and {} or redis.call('SMEMBERS', key(kind .. 's:active'))) do
    local json = redis.pcall('HGET', key(kind .. ':' .. id), 'json')
    if type(json) == 'string' and string.find(json, '"' .. it.job .. '"', 1, true) then
      redis.call('HSET', key('job:' .. it.job), kind, id)
    end
  end
end
local last = tonumber(redis.call('HGET', key('fences'), it.inventory) or '0') or 0
if tonumber(it.fence) > last then
  redis.call('HSET', key('fences'), it.inventory, it.fence)
end
raise()
if outcome ~= '' or it.container == '' then
  if outcome ~= '' then
    end_job(it.job, outcome)
    retire(it.job, retention)
  else
    lose(it.job, 'its record could not be read, and the engine has no container of it', retention)
  end
  local locks = redis.call('HGETALL', key('locks'))
  for n = 1, #locks, 2 do
    if locks[n + 1] == it.job then
      redis.call('HDEL', key('locks'), locks[n])
      wake_wanting(locks[n])
    end
  end
else
  revive(it, engine, {})
  if sealed then
    redis.call('HSET', key('job:' .. it.job), 'sealed', sealed)
  end
  if it.holds then
    redis.call('HSETNX', key('locks'), it.inventory, it.job)
  end
  news('s', it.job)
end
return reply('OK')
