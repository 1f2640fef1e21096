-- Admission. A: id, app, inventory, action, when_busy, sealed, idempotency key ('' for none), digest of the request.
-- Replies: STARTED fence lease | QUEUED place | EXISTS id | KEYREUSED | BUSY holder | FROZEN json.
-- Invariant: at most one holder per inventory; a job that exists is never made again; who waits is not overtaken.
local id, app, inventory, action, when_busy, sealed, idem, digest = unpack(A)
local job = key('job:' .. id)
local queue = key('queue:' .. inventory)

local function place()
  return call('LPOS', queue, id) + 1
end

local known = call('HMGET', job, 'state', 'lease', 'owner', 'fence')
if known[1] then
  -- The reply to the first asking was lost.
  if known[1] == 'starting' and known[2] == '1' and known[3] == ME then return reply('STARTED', known[4], '1') end
  if known[1] == 'queued' then return reply('QUEUED', place()) end
  return reply('EXISTS', id)
end
if idem ~= '' then
  local before = call('GET', key('idem:' .. app .. ':' .. idem))
  if before then
    local other, text = string.match(before, '^(%w+):(.*)$')
    if text ~= digest then return reply('KEYREUSED') end
    return reply('EXISTS', other)
  end
end

local freeze = frozen(inventory)
local holder = call('HGET', key('locks'), inventory) or nil
local first = call('LINDEX', queue, 0) or nil
if when_busy == 'reject' then
  if freeze then return reply('FROZEN', freeze) end
  if holder or first then return reply('BUSY', holder or first) end
end

call('HSET', job, 'id', id, 'app', app, 'inventory', inventory, 'action', action, 'when_busy', when_busy,
  'state', 'queued', 'lease', 0, 'created_ms', int(now()), 'raw', 0, 'text', 0, 'head', 0, 'sealed', sealed)
call('SADD', key('active'), id)
for _, index in ipairs({ 'jobs', 'jobs:app:' .. app, 'jobs:inv:' .. inventory }) do
  call('ZADD', key(index), 0, id)
end
if idem ~= '' then call('SET', key('idem:' .. app .. ':' .. idem), id .. ':' .. digest, 'EX', 86400) end

if not holder and not freeze and not first then
  return changed('STARTED', give(inventory, id), '1')
end

local taken = false
if when_busy == 'queue' then
  for _, other in ipairs(call('LRANGE', queue, 0, -1)) do
    local of = call('HMGET', key('job:' .. other), 'app', 'action', 'when_busy')
    if of[1] == app and of[2] == action and of[3] == 'queue' then
      -- The newer request takes the place of the older one, so that asking often costs nobody's turn.
      if taken then
        call('LREM', queue, 0, other)
      else
        call('LSET', queue, call('LPOS', queue, other), id)
        taken = true
      end
      call('HSET', key('job:' .. other), 'superseded_by', id)
      end_job(other, 'superseded', 'a newer request of the same app took its place')
    end
  end
end
if not taken then call('RPUSH', queue, id) end
call('SADD', key('queues'), inventory)
news('s', id)
return changed('QUEUED', place())
