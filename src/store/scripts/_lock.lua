-- The rules of lock, fence and queue, shared by the scripts that give or free a lock or end a job.
--
-- Invariants: an inventory has at most one holder; its fence grows with every holder; a queue holds queued jobs alone; a job is
-- in `active` exactly as long as it has not ended. A free lock that a release has reserved goes to that release, which takes it
-- together with all others that it waits for; a release is told of every lock that it waits for and that comes free.

-- Has a release looked at now. Whoever is about to write it has read how often it was woken, and leaves it due if that has changed.
local function wake(release)
  if redis.call('SISMEMBER', key('releases:active'), release) == 1 then
    -- One that cannot be read is in nobody's way.
    redis.pcall('HINCRBY', key('release:' .. release), 'woken', 1)
    redis.call('ZADD', key('releases:due'), 0, release)
    news('r', release)
  end
end

-- The lock of an inventory is free and given to nobody: those releases that wait for it look again.
local function wake_wanting(inventory)
  for _, release in ipairs(redis.call('SMEMBERS', key('wanted:' .. inventory))) do
    wake(release)
  end
end

-- The freeze in force, as stored; false when there is none. One that has run out is taken out.
local function frozen(inventory)
  local freeze = redis.call('HGET', key('freezes'), inventory)
  if not freeze then
    return false
  end
  local ends = tonumber(string.match(freeze, '^%d+'))
  if ends and ends > 0 and ends <= now() then
    redis.call('HDEL', key('freezes'), inventory)
    return false
  end
  return freeze
end

-- Takes a job out of the queue of its inventory.
local function leave_queue(inventory, job)
  local queue = key('queue:' .. inventory)
  redis.call('LREM', queue, 0, job)
  if redis.call('LLEN', queue) == 0 then
    redis.call('SREM', key('queues'), inventory)
  end
end

-- Gives the free lock of an inventory to a queued job, under lease 1 of this dispatcher; returns the fence.
local function take(inventory, job)
  local time = now()
  local last = tonumber(redis.call('HGET', key('fences'), inventory) or '0') or 0
  local fence = digits(math.max(last, time) + 1)
  redis.call('HSET', key('fences'), inventory, fence)
  redis.call('HSET', key('locks'), inventory, job)
  set_state(job, 'starting', 'lease', '1', 'owner', dispatcher, 'fence', fence, 'locked_ms', digits(time))
  news('s', job)
  return fence
end

-- Gives the free lock of an inventory to the first that waits, unless it is frozen or reserved; returns job and fence, or nothing.
local function hand_over(inventory)
  if frozen(inventory) then
    return
  elseif redis.call('HEXISTS', key('reserved'), inventory) == 1 then
    wake_wanting(inventory)
    return
  end
  local queue = key('queue:' .. inventory)
  while true do
    local job = redis.call('LPOP', queue)
    if not job then
      redis.call('SREM', key('queues'), inventory)
      wake_wanting(inventory)
      return
    end
    if fields(job, 'state')[1] == 'queued' then
      local fence = take(inventory, job)
      leave_queue(inventory, job)
      return job, fence
    end
  end
end

-- Starts the retention of a job that has ended.
local function retire(job, retention)
  for _, kind in ipairs({ 'job:', 'brief:', 'out:', 'progress:' }) do
    redis.call('PEXPIRE', key(kind .. job), retention)
  end
end

-- Sets the outcome of a job. Its lock, queue and retention are the caller's to see to.
local function end_job(job, outcome)
  set_state(job, outcome, 'ended_ms', digits(now()))
  redis.call('DEL', key('ring:' .. job))
  redis.call('SREM', key('active'), job)
  news('s', job)
  local release = redis.call('HGET', key('job:' .. job), 'release')
  if release then
    wake(release)
  end
  local order = redis.call('HGET', key('job:' .. job), 'order')
  if order then
    wake_order(order)
  end
end

-- Enters a new job where jobs are looked for, and takes out a few that are forgotten: of each index, as many at a time as keep
-- the forgotten ones from piling up.
local function enter(job, app, inventory)
  redis.call('SADD', key('active'), job)
  for _, name in ipairs({ 'jobs', 'jobs:app:' .. app, 'jobs:inv:' .. inventory }) do
    local index = key(name)
    redis.call('ZADD', index, 0, job)
    for _, entry in ipairs(redis.call('ZRANDMEMBER', index, 3)) do
      if redis.call('EXISTS', key('job:' .. entry)) == 0 and entry ~= job then
        redis.call('ZREM', index, entry)
      end
    end
  end
end

-- Creates the record of a new job, which waits until it is given its lock; further fields and values may follow.
local function begin(job, app, inventory, action, when_busy, sealed, ...)
  redis.call('HSET', key('job:' .. job), 'deployment_id', app, 'inventory', inventory, 'action', action,
    'when_busy', when_busy, 'lease', '0', 'created_ms', digits(now()), 'output', '0 0 0 0', 'sealed', sealed, ...)
  set_state(job, 'queued')
  enter(job, app, inventory)
end
