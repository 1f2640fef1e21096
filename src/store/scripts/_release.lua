-- Releases: what their writing has in common with nobody else's.
--
-- Invariants: the sets `asking:{reporter}` and `wanted:{inventory}` name a release exactly as long as its record says so; a reservation
-- is of one release, and a release that waits for several locks reserves none while another has reserved one of them, so that no
-- two wait for each other. One that waits on keeps what it has reserved, so that it comes to its turn.

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

-- Takes back what a release has reserved. Jobs that wait get a lock that is free with the next pass; releases that do look again.
local function unreserve(id, inventories)
  local some = false
  for _, inventory in ipairs(inventories) do
    if redis.call('HGET', key('reserved'), inventory) == id then
      some = true
      redis.call('HDEL', key('reserved'), inventory)
      if redis.call('HEXISTS', key('locks'), inventory) == 0 then
        wake_wanting(inventory)
      end
    end
  end
  return some
end

-- Reserves those of the locks that others hold, for the release that waits for all of them, and keeps those that it has reserved
-- and that came free meanwhile; unless another has reserved one of them or one is frozen: then all are left to those who can use
-- them. `before`: the inventories that it waited for until now. Returns whether anything has changed.
local function reserve(id, before, inventories)
  local mine, had = {}, {}
  for _, inventory in ipairs(words(inventories)) do
    local why, busy = obstacle(id, inventory)
    if why and not busy then
      return unreserve(id, words(before))
    end
    had[inventory] = redis.call('HGET', key('reserved'), inventory) == id
    if busy or had[inventory] then
      mine[#mine + 1] = inventory
    end
  end
  local left = {}
  for _, inventory in ipairs(words(before)) do
    if had[inventory] == nil then
      left[#left + 1] = inventory
    end
  end
  local changed = unreserve(id, left)
  for _, inventory in ipairs(mine) do
    changed = changed or not had[inventory]
    redis.call('HSET', key('reserved'), inventory, id)
  end
  return changed
end
