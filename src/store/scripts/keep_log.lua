-- Keeps the log of a report beside its release, before the report is recorded.
--
-- arg 1 the release, 2 the log's SHA-256, 3 the log
-- replies  OK
--          NONE   the release is not there any more
--
-- Invariant: a log is kept as long as its release, and no longer.

local logs = key('release_logs:' .. arg(1))
local left = redis.call('PTTL', key('release:' .. arg(1)))
if left == -2 then
  return reply('NONE')
end
redis.call('HSETNX', logs, arg(2), arg(3))
if left >= 0 then
  redis.call('PEXPIRE', logs, left)
end
return reply('OK')
