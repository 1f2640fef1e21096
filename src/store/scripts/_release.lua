-- Releases: what their writing has in common with nobody else's.
--
-- Invariants: the sets `asking:{reporter}` and `wanted:{inventory}` name a release exactly as long as its record says so; a reservation
-- is of one release, and a release that waits for several locks reserves none while another has reserved one of them, so that no
-- two wait for each other.

-- Tells what has happened to a release, in the order of all events and in its own, at one place in both.
local function tell_release(id, what, data)
  local at = redis.call('XADD', key('events'), '*', 'kind', 'release', 'about', id, 'app', '', 'inventory', '', 'what', what,
    'data', data)
  redis.call('XADD', key('release_events:' .. id), at, 'kind', 'release', 'about', id, 'app', '', 'inventory', '', 'what', what,
    'data', data)
  news('e', id)
end

-- The words of a text with blanks between them.
local function words(text)
  local list = {}
  for word in string.gmatch(text or '', '%S+') do
    list[#list + 1] = word
  end
  return list
end

-- Makes the release a member of the sets of one kind that are named, and of no others of that kind.
local function belong(id, kind, before, after)
  for _, whose in ipairs(words(before)) do
    redis.call('SREM', key(kind .. whose), id)
  end
  for _, whose in ipairs(words(after)) do
    redis.call('SADD', key(kind .. whose), id)
  end
end

-- What keeps a release from taking a lock, and whether somebody holds it; nothing if it may.
local function obstacle(id, inventory)
  local freeze = frozen(inventory)
  if freeze then
    local read, it = pcall(cjson.decode, string.match(freeze, '^%d+ (.*)$') or '')
    if read and type(it) == 'table' then
      return 'frozen by ' .. tostring(it.by) .. ': ' .. tostring(it.reason), false
    end
    return 'frozen', false
  end
  local holder = redis.call('HGET', key('locks'), inventory)
  if holder then
    return 'held by job ' .. holder, true
  end
  local first = redis.call('HGET', key('reserved'), inventory)
  if first and first ~= id then
    return 'the next to get it is release ' .. first, false
  elseif not first and redis.call('LLEN', key('queue:' .. inventory)) > 0 then
    return 'jobs wait for it', true
  end
end

-- Takes back what a release has reserved.
local function unreserve(id, inventories)
  for _, inventory in ipairs(words(inventories)) do
    if redis.call('HGET', key('reserved'), inventory) == id then
      redis.call('HDEL', key('reserved'), inventory)
    end
  end
end

-- Reserves those of the locks that others hold, for the release that waits for all of them, unless another has reserved one of
-- them or one is frozen: then the others are not kept from those who can use them.
local function reserve(id, inventories)
  local held = {}
  for _, inventory in ipairs(words(inventories)) do
    local why, busy = obstacle(id, inventory)
    if why and not busy then
      return
    elseif busy then
      held[#held + 1] = inventory
    end
  end
  for _, inventory in ipairs(held) do
    redis.call('HSET', key('reserved'), inventory, id)
  end
end
