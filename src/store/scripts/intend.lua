-- Records an intent, before any signal. A: id, intent, reason ('' for none). Replies: OK | NONE.
-- The first intent stays, and none comes after the exit code. A job that waits ends at once.
local id, intent, reason = unpack(A)
local job = key('job:' .. id)
local at = call('HMGET', job, 'state', 'inventory', 'intent', 'exit_code')
if not at[1] then return reply('NONE') end
if ENDED[at[1]] or at[3] or at[4] then return reply('OK') end
call('HSET', job, 'intent', intent, 'intent_ms', int(now()))
if reason ~= '' then call('HSETNX', job, 'reason', reason) end
if at[1] == 'queued' then
  leave_queue(at[2], id)
  end_job(id, 'canceled', reason)
else
  call('HSET', job, 'state', 'canceling')
  news('s', id)
end
return changed('OK')
