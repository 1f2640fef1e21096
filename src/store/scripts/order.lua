-- Writes an order, and carries out what follows from it: its jobs get their locks or wait for them, and everything is told.
--
-- arg 1 its environment, 2 its number, 3 the revision that was read ('0': it is new), 4 the order as JSON, 5 '1' if something may follow still,
-- 6 when it is to be looked at again in ms or '', 7 '1' if it holds the environment, 8 how often it had been woken when it was read,
-- 9 its mode, 10 what is deployed there as JSON, or '' to leave it, 11 retention of orders in ms, 12 that of events,
-- 13 the file that a new one was given in, 14 hash of the Idempotency-Key or '', 15 digest of the request,
-- 16 '1' if it says all of its mode, so that older ones give way to it, and '' if it was ended before it began and does so no more,
-- 17 '1' if the order is as it was read and nothing follows: then it waits on, and is not written,
-- then three lists, each a count and then its parts in turn: events (what, data as JSON); variables drawn for the vault (name, sealed);
-- jobs (job, app, inventory, action, sealed secrets)
--
-- replies  OK revision fence …   written; of each of its jobs, in order, the fence (the caller supervises it, with lease 1) or '' where it waits
--          RACED                 another revision stands there, another order holds the environment, or the number was given away
--          EXISTS number         this request gave that order before
--          KEYREUSED             the key was used with another request
--
-- Invariants: no wake-up is lost, also one that comes between a reading and the writing that follows it; an environment is held by one
-- order; numbers grow by one; a variable of the vault, once drawn, is never drawn again; what is deployed bears the name of the memory in which it was recorded.

local environment, number, revision, json, active, due = arg(1), arg(2), arg(3), arg(4), arg(5) == '1', arg(6)
local holds, woken, mode, deployed = arg(7) == '1', arg(8), arg(9), arg(10)
local retention, events_retention, file, idempotency, digest = arg(11), arg(12), arg(13), arg(14), arg(15)
local says_all, as_read = arg(16) == '1', arg(17) == '1'
local id = environment .. '/' .. number
local name, home = key('order:' .. id), key('environment:' .. environment)

local idempotency_key = key('idem:order:' .. environment .. ':' .. idempotency)
if idempotency ~= '' then
  local used = redis.call('GET', idempotency_key)
  if used then
    local before, request = string.match(used, '^(%S+) (.*)$')
    return request == digest and reply('EXISTS', before) or reply('KEYREUSED')
  end
end
local stands, woken_by_now = unpack(redis.call('HMGET', name, 'revision', 'woken'))
local newest, holder, begun = unpack(redis.call('HMGET', home, 'newest', 'holder', 'begun:' .. mode))
if (stands or '0') ~= revision or (holds and holder and holder ~= number)
  or (revision == '0' and tonumber(number) ~= tonumber(newest or '0') + 1) then
  return reply('RACED')
end

local told, drawn, jobs = lists(18, { 2, 2, 5 })

if active and ((woken_by_now or '0') ~= woken or (not holds and not holder)) then
  -- Something has happened that the writer does not know of: another has ended, for instance.
  due = '0'
end
if due ~= '' then
  redis.call('ZADD', key('orders:due'), due, id)
else
  redis.call('ZREM', key('orders:due'), id)
end
if as_read then
  return reply('OK', revision)
end
redis.call('HSET', name, 'json', json, 'revision', digits(revision + 1), 'epoch', epoch)
if revision == '0' then
  redis.call('HSET', name, 'file', file)
  redis.call('HSET', home, 'newest', number)
  if idempotency ~= '' then
    redis.call('SET', idempotency_key, number .. ' ' .. digest, 'EX', 86400)
  end
  if says_all then
    redis.call('HSET', home, 'newest:' .. mode, number)
  end
  -- Those of its mode before it give way: one that waits at once, one that runs between tasks.
  wake_orders_of(environment)
elseif not says_all and redis.call('HGET', home, 'newest:' .. mode) == number then
  -- What counts again is the newest that has held the environment: none before that one may be tried again.
  if begun then
    redis.call('HSET', home, 'newest:' .. mode, begun)
  else
    redis.call('HDEL', home, 'newest:' .. mode)
  end
end
redis.call(active and 'SADD' or 'SREM', key('orders:active'), id)
if deployed ~= '' then
  redis.call('HSET', home, 'deployed:' .. mode, deployed, 'epoch:' .. mode, epoch)
end
for _, it in ipairs(drawn) do
  redis.call('HSETNX', home, 'vault:' .. mode .. '/' .. it[1], it[2])
end
if holds then
  redis.call('HSET', home, 'holder', number)
  if says_all and tonumber(number) > tonumber(begun or '0') then
    redis.call('HSET', home, 'begun:' .. mode, number)
    if tonumber(number) > tonumber(redis.call('HGET', home, 'newest:' .. mode) or '0') then
      -- One that was newer was ended before this one began.
      redis.call('HSET', home, 'newest:' .. mode, number)
    end
  end
elseif holder == number then
  redis.call('HDEL', home, 'holder')
  wake_orders_of(environment)
end
for _, it in ipairs(told) do
  redis.call('XADD', key('events'), '*', 'kind', 'order', 'about', id, 'app', '', 'inventory', '', 'what', it[1], 'data', it[2])
  news('e', id)
end
redis.call('XTRIM', key('events'), 'MINID', '~', digits(now() - events_retention))
local answer = { digits(revision + 1) }
for n, it in ipairs(jobs) do
  local inventory = it[3]
  begin(it[1], it[2], inventory, it[4], 'fifo', it[5], 'order', id)
  local queue = key('queue:' .. inventory)
  if frozen(inventory) or redis.call('HEXISTS', key('locks'), inventory) == 1 or redis.call('LLEN', queue) > 0 then
    redis.call('RPUSH', queue, it[1])
    redis.call('SADD', key('queues'), inventory)
    answer[n + 1] = ''
  else
    answer[n + 1] = take(inventory, it[1])
  end
end
if active then
  redis.call('PERSIST', name)
elseif number ~= redis.call('HGET', home, 'newest') then
  redis.call('PEXPIRE', name, retention)
end
if revision == '0' and newest and redis.call('SISMEMBER', key('orders:active'), environment .. '/' .. newest) == 0 then
  -- Kept without end only as long as it was the newest.
  redis.call('PEXPIRE', key('order:' .. environment .. '/' .. newest), retention)
end
raise()
news('d', id)
return reply('OK', unpack(answer))
