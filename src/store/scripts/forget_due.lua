-- Looks no more at a release or an order that is not there any more or cannot be read, and takes back what a release has reserved.
--
-- arg 1 'release' or 'order', 2 its id
-- replies  OK
--
-- Invariant: what is left as it is keeps nobody from a lock.

local kind, id = arg(1), arg(2)
local reserved, its = kind == 'release' and redis.call('HGETALL', key('reserved')) or {}, {}
for n = 1, #reserved, 2 do
  if reserved[n + 1] == id then
    its[#its + 1] = reserved[n]
  end
end
if unreserve(id, its) then
  raise()
end
redis.call('ZREM', key(kind .. 's:due'), id)
return reply('OK')
