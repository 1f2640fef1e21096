-- Making a job's record anew from what its container says.
--
-- Invariant: the lease of a job that is made anew is above every lease that it had in any memory: the counter is, because it starts
-- above all of them and is raised with each. Whoever supervised the job before is stale.

-- Eight arguments of a rescued job from the i-th on: job, app, inventory, action, fence, container or '' (there is none), '1' if the container bears the inventory's name, when its id was drawn. Its sealed secrets lie in the container.
local function rescued_at(i)
  return {
    job = arg(i), app = arg(i + 1), inventory = arg(i + 2), action = arg(i + 3), fence = arg(i + 4),
    container = arg(i + 5), holds = arg(i + 6) == '1', drawn = arg(i + 7),
  }
end

local function lose(job, reason, retention)
  redis.call('HSET', key('job:' .. job), 'reason', reason)
  end_job(job, 'lost')
  retire(job, retention)
end

-- `outcome`: how it ended, where that is known; then nothing is told about it anew.
local function create(it, outcome)
  for _, kind in ipairs({ 'job:', 'brief:', 'out:', 'ring:', 'progress:' }) do
    redis.call('DEL', key(kind .. it.job))
  end
  redis.call('HSET', key('job:' .. it.job), 'deployment_id', it.app, 'inventory', it.inventory, 'action', it.action,
    'when_busy', 'queue', 'lease', '0', 'created_ms', it.drawn, 'output', '0 0 0 0')
  if outcome then
    redis.call('HSET', key('job:' .. it.job), 'state', outcome)
  end
  set_state(it.job, outcome or 'starting')
  enter(it.job, it.app, it.inventory)
end

-- Lets a job go on with its container, under nobody's supervision. `was`: state, lease, locked_ms and started_ms so far.
local function revive(it, engine, was)
  local name = key('job:' .. it.job)
  -- A fence is the time of the lock or a little more.
  local since = digits(math.min(tonumber(it.fence) - 1, now()))
  local state = was[1] == 'canceling' and 'canceling' or 'running'
  local lease = digits(math.max((tonumber(was[2] or '0') or 0) + 1, counter))
  set_state(it.job, state, 'lease', lease, 'fence', it.fence, 'engine', engine, 'container', it.container,
    'locked_ms', was[3] or since, 'started_ms', was[4] or since)
  redis.call('HDEL', name, 'owner')
  redis.call('SADD', key('active'), it.job)
end
