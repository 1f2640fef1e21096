-- Takes a live job over. A: id, lease that was seen. Replies: OK fence lease inventory | NONE.
-- Refused when another was first, when its supervisor gives signs of life, when it has ended or waits.
local id, lease = unpack(A)
local job = key('job:' .. id)
local at = call('HMGET', job, 'state', 'lease', 'owner', 'fence', 'inventory')
if not at[1] or at[1] == 'queued' or ENDED[at[1]] or at[2] ~= lease then return reply('NONE') end
if at[3] and at[3] ~= ME and call('EXISTS', key('dispatcher:' .. at[3])) == 1 then return reply('NONE') end
call('HSET', job, 'owner', ME)
local next_lease = call('HINCRBY', job, 'lease', 1)
news('s', id)
return changed('OK', at[4], int(next_lease), at[5])
