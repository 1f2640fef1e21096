-- Forgets a recorded container that was never started. A: id, lease, container. Replies: OK | STALE why.
local id, lease, container = unpack(A)
local refused = stale(id, lease)
if refused then return refused end
local recorded = get(id, 'container')
if not recorded then return reply('OK') end
if recorded ~= container then return reply('STALE', 'another container is recorded') end
call('HDEL', key('job:' .. id), 'engine', 'container', 'image')
return changed('OK')
