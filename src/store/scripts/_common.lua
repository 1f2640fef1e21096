-- Put before every script.
-- KEYS[1] the state key; ARGV[1] prefix of all keys, ARGV[2] epoch known to the caller, ARGV[3] highest counter it had
-- seen when it sent this, ARGV[4] the calling dispatcher, ARGV[5] retention in ms; a script's own arguments follow as A[1], A[2], …
-- A reply is {status, counter, …}. EPOCH: this memory is not the one that the caller knows; nothing was changed.
-- Keys are made from the prefix, because which ones are needed follows from what is stored: one Redis, no cluster.
local P, ME, RETENTION = ARGV[1], ARGV[4], tonumber(ARGV[5])
local A = {}
for i = 6, #ARGV do A[i - 5] = ARGV[i] end

local call = redis.call
local function key(name) return P .. name end
local function int(n) return string.format('%.0f', n) end
local function get(id, field) return call('HGET', key('job:' .. id), field) end
local function now() local t = call('TIME'); return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000) end
local function news(kind, id) call('PUBLISH', key('news'), kind .. ' ' .. id) end
local ENDED = { succeeded = 1, failed = 1, canceled = 1, timed_out = 1, superseded = 1, lost = 1 }

-- Replies; `changed` counts a change of state.
local function counter() return tonumber(call('HGET', KEYS[1], 'counter') or '0') end
local function reply(status, ...) return { status, counter(), ... } end
local function changed(status, ...) return { status, call('HINCRBY', KEYS[1], 'counter', 1), ... } end

-- A write about a job is refused unless it comes under the job's current lease.
local function stale(id, lease)
  local current = get(id, 'lease')
  if current == lease then return nil end
  return reply('STALE', current and ('lease ' .. current .. ' has taken over from ' .. lease) or 'the job has no record')
end

-- The freeze in force, as JSON; one that has run out is dropped.
local function frozen(inventory)
  local text = call('HGET', key('freezes'), inventory)
  if not text then return nil end
  local until_ms = cjson.decode(text)['until_ms']
  if type(until_ms) == 'number' and until_ms <= now() then
    call('HDEL', key('freezes'), inventory)
    return nil
  end
  return text
end

-- Gives the lock to a job: the next fence, the first lease.
local function give(inventory, id)
  local t = now()
  local fence = int(math.max(tonumber(call('HGET', key('fences'), inventory) or '0'), t) + 1)
  call('HSET', key('fences'), inventory, fence)
  call('HSET', key('locks'), inventory, id)
  call('HSET', key('job:' .. id), 'state', 'starting', 'lease', 1, 'owner', ME, 'fence', fence, 'locked_ms', int(t))
  news('s', id)
  return fence
end

local function leave_queue(inventory, id)
  call('LREM', key('queue:' .. inventory), 0, id)
  if call('LLEN', key('queue:' .. inventory)) == 0 then call('SREM', key('queues'), inventory) end
end

-- Gives the free lock to the first that waits, unless frozen. Returns its id and fence.
local function next_holder(inventory)
  if frozen(inventory) then return nil end
  while true do
    local id = call('LPOP', key('queue:' .. inventory))
    if not id then
      call('SREM', key('queues'), inventory)
      return nil
    end
    if get(id, 'state') == 'queued' then
      leave_queue(inventory, id)
      return id, give(inventory, id)
    end
  end
end

local function expire(id)
  call('PEXPIRE', key('job:' .. id), RETENTION)
  call('PEXPIRE', key('out:' .. id), RETENTION)
end

-- Sets the outcome of a job that has none, and starts its retention. The last success of an app is kept.
local function end_job(id, outcome, reason)
  local job = key('job:' .. id)
  call('HSET', job, 'state', outcome, 'ended_ms', int(now()))
  call('HDEL', job, 'sealed')
  if reason and reason ~= '' then call('HSETNX', job, 'reason', reason) end
  call('SREM', key('active'), id)
  call('DEL', key('ring:' .. id))
  if outcome == 'succeeded' then
    local last = key('lastok:' .. call('HGET', job, 'app'))
    local before = call('GET', last)
    if before and before ~= id then expire(before) end
    call('SET', last, id)
  else
    expire(id)
  end
  news('s', id)
end
