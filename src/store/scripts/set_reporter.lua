-- Records who reports and on which products, or forgets a reporter.
--
-- arg 1 its name, 2 '1' to record it and '' to forget it, 3 who says so, 4, 5, … products
-- replies  NEW          recorded
--          OK           changed, or forgotten
--          NONE         there was none to forget
--          MANY count   there are so many that no further one is recorded
--
-- Invariant: `subscribers:{product}` names exactly the reporters that are recorded with that product. Checks that ask already are frozen.

local name = arg(1)
local before = redis.call('HGET', key('reporters'), name)
if arg(2) ~= '1' and not before then
  return reply('NONE')
elseif arg(2) == '1' and not before and redis.call('HLEN', key('reporters')) >= 1000 then
  return reply('MANY', redis.call('HLEN', key('reporters')))
end
for product in string.gmatch(string.match(before or '', '^%S+ (.*)$') or '', '%S+') do
  redis.call('SREM', key('subscribers:' .. product), name)
end
local products, i = {}, 4
while arg(2) == '1' and arg(i) do
  redis.call('SADD', key('subscribers:' .. arg(i)), name)
  products[#products + 1] = arg(i)
  i = i + 1
end
if arg(2) == '1' then
  redis.call('HSET', key('reporters'), name, arg(3) .. ' ' .. table.concat(products, ' '))
else
  redis.call('HDEL', key('reporters'), name)
end
raise()
return reply((arg(2) ~= '1' or before) and 'OK' or 'NEW')
