-- Looks no more at a release that is not there any more or cannot be read, and takes back what it has reserved.
--
-- arg 1 its id
-- replies  OK
--
-- Invariant: what is left as it is keeps nobody from a lock.

local id = arg(1)
local reserved, its = redis.call('HGETALL', key('reserved')), {}
for n = 1, #reserved, 2 do
  if reserved[n + 1] == id then
    its[#its + 1] = reserved[n]
  end
end
if unreserve(id, its) then
  raise()
end
redis.call('ZREM', key('releases:due'), id)
return reply('OK')
