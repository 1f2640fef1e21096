-- Frees a lock whose holder has no readable record. The caller has read the record, and seen that the engine has no such container.
--
-- arg 1 inventory, 2 holder, 3 retention in ms
-- replies  OK
--          NONE   the lock is not that holder's
--
-- Invariant: compares before it frees, so that a lock which has gone on to another is left alone.

local inventory, holder, retention = arg(1), arg(2), arg(3)
local held = redis.call('HGET', key('locks'), inventory) == holder
redis.call('SREM', key('active'), holder)
retire(holder, retention)
if not held then
  return reply('NONE')
end
redis.call('HDEL', key('locks'), inventory)
wake_wanting(inventory)
raise()
return reply('OK')
