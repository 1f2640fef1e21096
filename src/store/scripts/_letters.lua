-- Dead letters of a webhook.
--
-- Invariant: an event that is sent again is no dead letter any more; one that is not kept, and cannot be sent, stays one.

local function place(cursor)
  local ms, number = string.match(cursor, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(number)
end

-- Forgets those of events after a place.
local function forget_letters(name, after)
  local ms, number = place(after)
  for _, letter in ipairs(redis.call('XRANGE', key('dead:' .. name), '-', '+')) do
    local event = letter[2][2]
    local its_ms, its_number = place(event)
    local later = its_ms > ms or (its_ms == ms and its_number > number)
    if later and redis.call('XRANGE', key('events'), event, event)[1] then
      redis.call('XDEL', key('dead:' .. name), letter[1])
    end
  end
end
