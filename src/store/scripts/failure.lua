-- Counts a failed try.
--
-- arg 1 '1' if the try needs a list of apps, 2, 3, … keys of the counters
-- replies  OK listed   1: there is a list of apps; 0: none was ever posted, or it is gone
--
-- Invariant: a counter never stands without its expiry. Without a list nothing can be said about an app's credentials, and a try at
-- them is held against nobody.

local listed = redis.call('EXISTS', key('apps_version'))
if listed == 1 or arg(1) ~= '1' then
  local i = 2
  while arg(i) do
    if redis.call('INCR', arg(i)) == 1 then
      redis.call('EXPIRE', arg(i), 60)
    end
    i = i + 1
  end
end
return reply('OK', listed)
