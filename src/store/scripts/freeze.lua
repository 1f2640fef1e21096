-- Freezes an inventory, or replaces its freeze.
--
-- arg 1 inventory, 2 seconds until it ends by itself or '', 3 reason and author as JSON
-- replies  OK freeze   as stored: the time of its end in ms or 0, a blank, reason and author
--
-- Invariant: from then on nobody is given the lock; whoever holds it goes on.

local ends = arg(2) == '' and '0' or digits(now() + tonumber(arg(2)) * 1000)
local freeze = ends .. ' ' .. arg(3)
redis.call('HSET', key('freezes'), arg(1), freeze)
raise()
return reply('OK', freeze)
