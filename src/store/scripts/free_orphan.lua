-- Frees a lock whose holder has no readable record. A: inventory, holder. Replies: OK | NONE.
local inventory, holder = unpack(A)
if call('HGET', key('locks'), inventory) ~= holder then return reply('NONE') end
call('HDEL', key('locks'), inventory)
call('SREM', key('active'), holder)
news('s', holder)
return changed('OK')
