-- Registers an environment, or changes what is registered. What is deployed there stays as it is.
--
-- arg 1 its name, 2 the registration as JSON, 3 the file as it was written, 4 who
-- replies  NEW | OK      registered, changed
--          MANY count    there are so many that no further one is taken
--
-- Invariant: what is deployed, the vault, the orders' numbers and who holds the environment are the orders' to change, and stay.

local name = arg(1)
local there = redis.call('SISMEMBER', key('environments'), name) == 1
if not there and redis.call('SCARD', key('environments')) >= 1000 then
  return reply('MANY', redis.call('SCARD', key('environments')))
end
redis.call('SADD', key('environments'), name)
redis.call('HSET', key('environment:' .. name), 'json', arg(2), 'file', arg(3), 'by', arg(4), 'made_ms', digits(now()))
raise()
return reply(there and 'OK' or 'NEW')
