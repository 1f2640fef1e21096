-- Counts a failed try.
--
-- arg 1, 2, … keys of the counters
-- replies  OK listed   1: there is a list of apps; 0: none was ever posted, or it is gone
--
-- Invariant: a counter never stands without its expiry.

local i = 1
while arg(i) do
  if redis.call('INCR', arg(i)) == 1 then
    redis.call('EXPIRE', arg(i), 60)
  end
  i = i + 1
end
return reply('OK', redis.call('EXISTS', key('apps_version')))
