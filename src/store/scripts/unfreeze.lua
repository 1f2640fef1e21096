-- Lifts a freeze.
--
-- arg 1 inventory
-- replies  OK
--          NONE   there was none in force
--
-- Invariant: the lock stays as it is; if it is free, the caller grants it to the first that waits.

if not frozen(arg(1)) then
  return reply('NONE')
end
redis.call('HDEL', key('freezes'), arg(1))
raise()
return reply('OK')
