-- Replaces what Redis believes by what the engine shows. A: epoch that must stand there ('' for none), new epoch, engine, number of
-- containers; then for each: job, created_ms, app, inventory, action, fence, container ('' when it was never started and is removed),
-- '1' if it bears the inventory's name, sealed ('' when unknown). Replies: OK | LOST (another rebuilt first).
-- Invariant: afterwards a lock is held exactly by the jobs whose containers bear an inventory's name (or that belong to
-- another engine); every other job that had not ended is lost, because it may have run since this memory was made.
local found, epoch, engine = A[1], A[2], A[3]
if (call('HGET', KEYS[1], 'epoch') or '') ~= found then return { 'LOST', 0 } end

local rescued, holders = {}, {}
for i = 5, 5 + 9 * tonumber(A[4]) - 1, 9 do
  local id, created, app, inventory, action, fence, container, holds, sealed = unpack(A, i, i + 8)
  local job = key('job:' .. id)
  rescued[id] = true
  local last = call('HGET', key('fences'), inventory)
  if not last or tonumber(last) < tonumber(fence) then call('HSET', key('fences'), inventory, fence) end
  local state = call('HGET', job, 'state')
  if not ENDED[state] then
    call('HSET', job, 'id', id, 'app', app, 'inventory', inventory, 'action', action, 'fence', fence)
    for field, value in pairs({ when_busy = 'queue', created_ms = created, locked_ms = created, raw = 0, text = 0, head = 0 }) do
      call('HSETNX', job, field, value)
    end
    call('HINCRBY', job, 'lease', 1)
    call('HDEL', job, 'owner')
    if sealed ~= '' then call('HSETNX', job, 'sealed', sealed) end
    call('SADD', key('active'), id)
    for _, index in ipairs({ 'jobs', 'jobs:app:' .. app, 'jobs:inv:' .. inventory }) do call('ZADD', key(index), 0, id) end
    if container == '' then
      end_job(id, 'lost', 'its container was never started, and what was recorded about it is gone')
    else
      call('HSET', job, 'engine', engine, 'container', container)
      call('HSETNX', job, 'started_ms', int(now()))
      call('HSET', job, 'state', call('HEXISTS', job, 'intent') == 1 and 'canceling' or 'running')
      if holds == '1' then holders[inventory] = id end
    end
  end
end

local function elsewhere(id)
  local on = get(id, 'engine')
  return on and on ~= engine
end
for _, id in ipairs(call('SMEMBERS', key('active'))) do
  if not rescued[id] and not elsewhere(id) then
    local state = get(id, 'state')
    if state and not ENDED[state] then
      end_job(id, 'lost', 'Redis came back older than it was, and the engine has no container of it')
    end
    call('SREM', key('active'), id)
  end
end
local locks = call('HGETALL', key('locks'))
for i = 1, #locks, 2 do
  if not elsewhere(locks[i + 1]) then call('HDEL', key('locks'), locks[i]) end
end
for inventory, id in pairs(holders) do call('HSET', key('locks'), inventory, id) end
for _, inventory in ipairs(call('SMEMBERS', key('queues'))) do call('DEL', key('queue:' .. inventory)) end
call('DEL', key('queues'))
call('HSET', KEYS[1], 'epoch', epoch, 'counter', int(math.max(counter(), tonumber(ARGV[3])) + 1))
call('PUBLISH', key('news'), '*')
return { 'OK', counter() }
