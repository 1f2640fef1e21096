-- A few words for all scripts.
--
-- KEYS[1]  the key `state`; the prefix of all others follows from it
-- ARGV[1]  the epoch known to the dispatcher
-- ARGV[2]  the highest counter that it had seen before it sent this
-- ARGV[3]  the dispatcher's name
-- ARGV[4…] the script's own arguments: arg(1), arg(2), …
-- FIELDS   the fields of a record, in order (put before this by the store)
--
-- Every reply is an array: a word, the counter, what the script has to say. {'EPOCH'}: this is another memory; nothing was changed.
-- {'STALE', counter, why}: the write is stale; nothing was changed.
--
-- Invariant: a script changes nothing before it has read all that decides, and raises the counter if it changes state.

local prefix = string.sub(KEYS[1], 1, -6)
local dispatcher = ARGV[3]

local function arg(i)
  return ARGV[i + 3]
end

local function key(name)
  return prefix .. name
end

-- The lists that follow from arg(place) on: each a count, and then the parts of its items in turn, as many as its width says.
-- (Not of variable arguments: in such a function, Lua 5.1 has a local `arg` of its own.)
local function lists(place, widths)
  local all = {}
  for n, width in ipairs(widths) do
    local items, count = {}, tonumber(arg(place))
    place = place + 1
    for item = 1, count do
      items[item] = {}
      for part = 1, width do
        items[item][part] = arg(place)
        place = place + 1
      end
    end
    all[n] = items
  end
  return unpack(all)
end

-- The name of this memory, and how often state has changed in it.
local epoch, counter

-- Lua would write large numbers with an exponent.
local function digits(number)
  return string.format('%.0f', number)
end

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function raise()
  counter = counter + 1
  redis.call('SET', KEYS[1], epoch .. ' ' .. digits(counter))
end

local function reply(word, ...)
  return { word, counter, ... }
end

local function stale(why)
  return { 'STALE', counter, why }
end

local function news(kind, job)
  redis.call('PUBLISH', key('news'), kind .. ' ' .. job)
end

-- Some fields of a job; all false when there is no such job, or when what is there is no record.
local function fields(job, ...)
  local values = redis.pcall('HMGET', key('job:' .. job), ...)
  if values.err then
    return {}
  end
  return values
end

-- Tells what has happened, behind everything that was told before. `data` is a table of texts, with names.
local function tell(kind, about, app, inventory, what, data)
  redis.call('XADD', key('events'), '*', 'kind', kind, 'about', about, 'app', app, 'inventory', inventory, 'what', what,
    'data', cjson.encode(data))
  news('e', about)
end

-- What an event says of a job besides app, inventory and state.
local TOLD = { 'action', 'fence', 'exit_code', 'image_digest', 'reason', 'superseded_by' }

-- Sets a job's state and further fields, and with it what polls read; a change of state is an event.
local function set_state(job, state, ...)
  local name = key('job:' .. job)
  local before = redis.call('HGET', name, 'state')
  redis.call('HSET', name, 'state', state, ...)
  local app, inventory, reason = unpack(redis.call('HMGET', name, 'deployment_id', 'inventory', 'reason'))
  local brief = (app or '?') .. ' ' .. (inventory or '?') .. ' ' .. state
  redis.call('SET', key('brief:' .. job), reason and brief .. ' ' .. reason or brief)
  if before ~= state then
    local data = {}
    for i, value in ipairs(redis.call('HMGET', name, unpack(TOLD))) do
      data[TOLD[i]] = value or nil
    end
    tell('job', job, app or '?', inventory or '?', state, data)
  end
end

local LIVE = { queued = true, starting = true, running = true, canceling = true }
