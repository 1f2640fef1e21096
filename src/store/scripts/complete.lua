-- Appends to the readable output at the end of a job: the announcement of what was left out, or a piece of the ring.
--
-- arg 1 job, 2 lease, 3 bytes that are readable before it, 4 the announcement, or '' for a piece of the ring from 5 place, 6 bytes
-- replies  OK
--
-- Invariant: each piece goes behind exactly the bytes that were there; one that stands there already is success.

local job, lease, readable = arg(1), arg(2), tonumber(arg(3))
local it = fields(job, 'lease', 'state')
if it[1] ~= lease then
  return stale('another supervisor has taken over, or the job is not known')
elseif not LIVE[it[2]] then
  return stale('the job has ended')
end
local piece = arg(4)
if piece == '' then
  local first = tonumber(arg(5))
  piece = redis.call('GETRANGE', key('ring:' .. job), digits(first), digits(first + tonumber(arg(6)) - 1))
  if #piece ~= tonumber(arg(6)) then
    return stale('the ring does not hold that piece')
  end
end
local out = key('out:' .. job)
local length = redis.call('STRLEN', out)
if length == readable then
  redis.call('APPEND', out, piece)
  news('o', job)
elseif length ~= readable + #piece or redis.call('GETRANGE', out, digits(readable), '-1') ~= piece then
  return stale('the readable output has another length')
end
return reply('OK')
