-- Gives a free lock to the first that waits. A: inventory. Replies: OK | OK next fence lease inventory.
local inventory = A[1]
if call('HEXISTS', key('locks'), inventory) == 1 then return reply('OK') end
local next_id, fence = next_holder(inventory)
if not next_id then return reply('OK') end
return changed('OK', next_id, fence, '1', inventory)
