-- First step of the end: records the exit code, once. A: id, lease, exit code, reason ('' for none). Replies: OK | STALE why.
local id, lease, exit_code, reason = unpack(A)
local refused = stale(id, lease)
if refused then return refused end
if call('HSETNX', key('job:' .. id), 'exit_code', exit_code) == 0 then return reply('OK') end
if reason ~= '' then call('HSETNX', key('job:' .. id), 'reason', reason) end
news('s', id)
return changed('OK')
