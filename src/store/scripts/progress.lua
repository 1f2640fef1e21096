-- Stores what a container reports.
--
-- arg 1 job, 2, 3, 4, 5, … member of the report and its value as JSON
-- replies  OK
--          NONE   no such job, or it has ended
--
-- Invariant: a member that is given replaces the stored one; the others stay.

local job = arg(1)
if not LIVE[fields(job, 'state')[1]] then
  return reply('NONE')
end
local i = 2
while arg(i) do
  redis.call('HSET', key('progress:' .. job), arg(i), arg(i + 1))
  i = i + 2
end
news('s', job)
return reply('OK')
