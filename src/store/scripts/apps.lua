-- Replaces the list of apps.
--
-- arg 1 '1' to force, 2, 3, 4, 5, … deployment id and the app as JSON
-- replies  OK
--          SHRUNK count   the list would be empty or shrink to less than half of `count` apps
--
-- Invariant: there is no moment at which no app can authenticate. Every list has a version of its own, which stands in it and
-- beside it, so that who keeps a copy sees that it is the one in force.

local before = math.max(redis.call('HLEN', key('apps')) - 1, 0)
local after = (#ARGV - 4) / 2
if arg(1) ~= '1' and (after == 0 or after * 2 < before) then
  return reply('SHRUNK', before)
end
raise()
redis.call('DEL', key('apps'))
redis.call('HSET', key('apps'), '', digits(counter))
for i = 2, 2 * after, 2 do
  redis.call('HSET', key('apps'), arg(i), arg(i + 1))
end
redis.call('SET', key('apps_version'), digits(counter))
return reply('OK')
