-- Appends output.
--
-- arg 1 job, 2 lease, 3 position that the writer believes in, 4 position after the write, 5 text for the head,
-- 6, 7, 8, 9, … place in the ring and bytes to be written there
-- replies  OK
--
-- Invariant: applied exactly once, behind exactly what was there: positions are compared whole. A write that has been applied
-- already is success. Output is no change of state: the counter stays.

local job, lease, at, after, head = arg(1), arg(2), arg(3), arg(4), arg(5)
local it = fields(job, 'lease', 'state', 'output')
if it[1] ~= lease then
  return stale('another supervisor has taken over, or the job is not known')
elseif not LIVE[it[2]] then
  return stale('the job has ended')
elseif it[3] == after then
  return reply('OK')
elseif it[3] ~= at then
  return stale('the output stands at another position')
end
if head ~= '' then
  redis.call('APPEND', key('out:' .. job), head)
end
local i = 6
while arg(i) do
  redis.call('SETRANGE', key('ring:' .. job), arg(i), arg(i + 1))
  i = i + 2
end
redis.call('HSET', key('job:' .. job), 'output', after)
if head ~= '' then
  news('o', job)
end
return reply('OK')
