-- Replaces what Redis believes by what the engine shows.
--
-- ARGV[1]  what must still stand there: epoch, a blank, counter; or '' for nothing
-- arg 1 the new epoch, 2 the engine's id, 3 retention in ms,
-- then eight for each job that is rescued, as `rescued_at` reads them
--
-- replies  OK
--          LOST   something else stands there: another dispatcher was first, or state has changed since; nothing was changed
--
-- Invariants: what has ended stays ended. The counter is above the clock in microseconds and so above all that any dispatcher has
-- seen, which is how the others tell a rebuilt memory from an old one. A lock is held by a rescued job, or by a live one of another
-- engine, of which nothing is known here.

local found, engine, retention = ARGV[1], arg(2), arg(3)
-- What is no string is overwritten like anything else that is no memory.
local stands = redis.call('MGET', KEYS[1])[1] or ''
epoch, counter = string.match(stands, '^(%S+) (%d+)$')
counter = tonumber(counter or '0')
if epoch == arg(1) then
  return reply('OK')
elseif stands ~= found then
  return { 'LOST' }
end
epoch = arg(1)
-- In microseconds, which no sequence of changes outruns.
local clock = redis.call('TIME')
counter = math.max(counter, tonumber(ARGV[2]), clock[1] * 1000000 + clock[2])
raise()

local rescued, found_jobs = {}, {}
local i = 4
while arg(i) do
  local it = rescued_at(i)
  rescued[it.job] = true
  found_jobs[#found_jobs + 1] = it
  local last = tonumber(redis.call('HGET', key('fences'), it.inventory) or '0') or 0
  if tonumber(it.fence) > last then
    redis.call('HSET', key('fences'), it.inventory, it.fence)
  end
  i = i + 8
end

-- Who may hold a lock after this.
local keeps, claims = {}, {}
for _, it in ipairs(found_jobs) do
  local was = fields(it.job, 'state', 'lease', 'locked_ms', 'started_ms')
  if LIVE[was[1]] or not was[1] then
    if not was[1] then
      create(it)
      was = {}
    end
    revive(it, engine, was)
    keeps[it.job] = true
    if it.holds then
      claims[it.inventory] = it.job
    end
    news('s', it.job)
  end
end

local foreign = {}
local function settle(job)
  local it = fields(job, 'state', 'engine', 'exit_code', 'lease')
  if rescued[job] or keeps[job] then
    return
  elseif LIVE[it[1]] and it[3] then
    -- Its end was seen: whoever adopts it sets the outcome.
    redis.call('HDEL', key('job:' .. job), 'owner')
    redis.call('HSET', key('job:' .. job), 'lease', digits(math.max((tonumber(it[4] or '0') or 0) + 1, counter)))
    keeps[job] = true
  elseif not LIVE[it[1]] then
    redis.call('SREM', key('active'), job)
  elseif it[2] and it[2] ~= engine then
    foreign[job] = true
  else
    lose(job, 'Redis had lost its memory, and the engine has no container of this job', retention)
  end
end
for _, job in ipairs(redis.call('SMEMBERS', key('active'))) do
  settle(job)
end
for _, inventory in ipairs(redis.call('SMEMBERS', key('queues'))) do
  for _, job in ipairs(redis.call('LRANGE', key('queue:' .. inventory), 0, -1)) do
    settle(job)
    if fields(job, 'state')[1] ~= 'queued' then
      leave_queue(inventory, job)
    end
  end
end
local locks = redis.call('HGETALL', key('locks'))
for n = 1, #locks, 2 do
  settle(locks[n + 1])
  if not keeps[locks[n + 1]] and not foreign[locks[n + 1]] then
    redis.call('HDEL', key('locks'), locks[n])
  end
end
for inventory, job in pairs(claims) do
  local holder = redis.call('HGET', key('locks'), inventory)
  if not holder or not foreign[holder] then
    redis.call('HSET', key('locks'), inventory, job)
  end
end
-- Releases are found to be of another memory than this, and wait for people; they keep nobody from a lock.
redis.call('DEL', key('reserved'))
for _, release in ipairs(redis.call('SMEMBERS', key('releases:active'))) do
  wake(release)
end
return reply('OK')
