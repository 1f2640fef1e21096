-- Records a pipeline, as a new version of its name.
--
-- arg 1 its name, 2 the pipeline as JSON, 3 the file as it was written, 4 who
-- replies  NEW version   recorded
--          OK version    it is what the newest version says already
--          MANY count    there are so many that no further one is taken
--
-- Invariant: a version is never changed: releases keep the one that they started with.

local name, json = arg(1), arg(2)
local versions = key('pipeline:' .. name)
local newest = tonumber(redis.call('HGET', key('pipelines'), name) or '0')
if newest == 0 and redis.call('HLEN', key('pipelines')) >= 1000 then
  return reply('MANY', redis.call('HLEN', key('pipelines')))
elseif newest > 0 and redis.call('HGET', versions, newest .. ':pipeline') == json then
  return reply('OK', newest)
end
newest = newest + 1
redis.call('HSET', versions, newest .. ':pipeline', json, newest .. ':file', arg(3), newest .. ':by', arg(4),
  newest .. ':made_ms', digits(now()))
redis.call('HSET', key('pipelines'), name, newest)
raise()
return reply('NEW', newest)
