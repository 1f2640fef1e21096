-- Writes a release, and carries out what follows from it: its jobs get their locks, all together or none, and everything is told.
--
-- arg 1 its id, 2 the revision that was read ('0': it is new), 3 the release as JSON, 4 '1' if something may follow still, 5 when it is
-- to be looked at again in ms or '', 6 names of the reporters that it asks, 7 inventories that it waits for (both with blanks between),
-- 8 retention of releases in ms, 9 that of events, 10 pipeline, a slash, and version,
-- 11 hash of the Idempotency-Key or '', 12 digest of the request, 13 how often it had been woken when it was read,
-- 14 '1' if the release is as it was read and nothing follows: then it waits on, and is not written,
-- of a new one 15 who makes it, 16 what, for the audit log, 17 how many lines that keeps,
-- then five lists, each a count and then its parts in turn: events (what, data as JSON); what apps have deployed (app, JSON or '');
-- services that it takes in a stage (pipeline/stage/service, and the release that was read there or '');
-- stages in which it holds automation (pipeline/stage, '1' or '' to lift);
-- jobs (job, app, inventory, action, sealed secrets), by inventory
--
-- replies  OK revision fence …   written; the fences of its jobs, in order, each under the caller's supervision with lease 1
--          RACED                 another revision stands there, or another release in a place that it takes, or two of its jobs
--                                need one lock: what was read is not so any more
--          BUSY inventory why    a lock cannot be had
--          FREE                  it is to wait for locks that can all be had
--          EXISTS id             this request made that release before
--          KEYREUSED             the key was used with another request
--
-- Invariants: written with all that follows, or not at all; whoever read another revision changes nothing; of two that enter a stage
-- at once, one has read that the other is there; no wake-up is lost, also one that comes between a reading and the writing that
-- follows it; a hold can be lifted as long as it is in force, because the release that holds is kept.

local id, revision, json, active, due = arg(1), arg(2), arg(3), arg(4) == '1', arg(5)
local asks, wants, retention, events_retention, pipeline = arg(6), arg(7), arg(8), arg(9), arg(10)
local idempotency, digest, woken, as_read = arg(11), arg(12), arg(13), arg(14) == '1'
local name = key('release:' .. id)

local idempotency_key = key('idem:release:' .. idempotency)
if idempotency ~= '' and revision == '0' then
  local used = redis.call('GET', idempotency_key)
  if used then
    local before, request = string.match(used, '^(%S+) (.*)$')
    return request == digest and reply('EXISTS', before) or reply('KEYREUSED')
  end
end
local stands, asked, wanted, woken_by_now = unpack(redis.call('HMGET', name, 'revision', 'asks', 'wants', 'woken'))
if (stands or '0') ~= revision then
  return reply('RACED')
end

local told, there, occupied, holds, jobs = lists(18, { 2, 2, 2, 2, 5 })

for _, it in ipairs(occupied) do
  if (redis.call('HGET', key('occupants'), it[1]) or '') ~= it[2] then
    return reply('RACED')
  end
end
for n, it in ipairs(jobs) do
  if n > 1 and jobs[n - 1][3] == it[3] then
    return reply('RACED')
  end
  local why = obstacle(id, it[3])
  if why then
    return reply('BUSY', it[3], why)
  end
end
if wants ~= '' then
  local all = true
  for _, inventory in ipairs(words(wants)) do
    all = all and not obstacle(id, inventory)
  end
  if all then
    return reply('FREE')
  end
end

if active and (woken_by_now or '0') ~= woken then
  -- Something has happened that the writer does not know of.
  due = '0'
end
if due ~= '' then
  redis.call('ZADD', key('releases:due'), due, id)
else
  redis.call('ZREM', key('releases:due'), id)
end
if as_read and asks == (asked or '') and wants == (wanted or '') then
  if reserve(id, wanted, wants) then
    raise()
  end
  return reply('OK', revision)
end
redis.call('HSET', name, 'json', json, 'revision', digits(revision + 1), 'epoch', epoch, 'pipeline', pipeline, 'asks', asks,
  'wants', wants)
if revision == '0' then
  redis.call('XADD', key('audit'), 'MAXLEN', '~', arg(17), '*', 'by', arg(15), 'what', 'make-release', 'about', arg(16), 'reason', '')
  redis.call('ZADD', key('releases'), 0, id)
  for _, entry in ipairs(redis.call('ZRANDMEMBER', key('releases'), 3)) do
    if redis.call('EXISTS', key('release:' .. entry)) == 0 then
      redis.call('ZREM', key('releases'), entry)
    end
  end
  if idempotency ~= '' then
    redis.call('SET', idempotency_key, id .. ' ' .. digest, 'EX', 86400)
  end
end
if active then
  redis.call('SADD', key('releases:active'), id)
else
  redis.call('SREM', key('releases:active'), id)
end
belong(id, 'asking:', asked, asks)
if asks ~= '' and asks ~= asked then
  news('a', id)
end
belong(id, 'wanted:', wanted, wants)
for _, it in ipairs(there) do
  if it[2] == '' then
    redis.call('HDEL', key('there'), it[1])
  else
    redis.call('HSET', key('there'), it[1], it[2])
  end
end
for _, it in ipairs(occupied) do
  redis.call('HSET', key('occupants'), it[1], id)
end
local holding = false
for _, it in ipairs(holds) do
  local before = redis.call('HGET', key('holds'), it[1]) or ''
  local after = {}
  for _, other in ipairs(words(before)) do
    if other ~= id then
      after[#after + 1] = other
    end
  end
  if it[2] == '1' then
    holding = true
    after[#after + 1] = id
  end
  if after[1] then
    redis.call('HSET', key('holds'), it[1], table.concat(after, ' '))
  elseif before ~= '' then
    redis.call('HDEL', key('holds'), it[1])
    -- Who was held does not say so: all look again, which happens seldom.
    for _, other in ipairs(redis.call('SMEMBERS', key('releases:active'))) do
      wake(other)
    end
  end
end
for _, it in ipairs(told) do
  tell_release(id, it[1], it[2])
end
redis.call('XTRIM', key('events'), 'MINID', '~', digits(now() - events_retention))
local answer = { digits(revision + 1) }
for n, it in ipairs(jobs) do
  begin(it[1], it[2], it[3], it[4], 'queue', it[5], 'release', id)
  answer[n + 1] = take(it[3], it[1])
end
reserve(id, wanted, wants)
if not active and not holding then
  for _, kind in ipairs({ 'release:', 'release_events:', 'release_logs:' }) do
    redis.call('PEXPIRE', key(kind .. id), retention)
  end
end
raise()
news('r', id)
return reply('OK', unpack(answer))
