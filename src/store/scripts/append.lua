-- Appends output. A: id, lease, raw, text, head before; raw, text, head after; bytes for the head; then place and bytes for
-- the ring, any number of times. Replies: OK | STALE why.
-- Invariant: what is there was written once, in order. A write that was applied already, its reply lost, is OK.
local id, lease = A[1], A[2]
local refused = stale(id, lease)
if refused then return refused end
local job = key('job:' .. id)
local at = call('HMGET', job, 'raw', 'text', 'head')
if at[1] == A[6] and at[2] == A[7] and at[3] == A[8] then return reply('OK') end
if at[1] ~= A[3] or at[2] ~= A[4] or at[3] ~= A[5] then
  return reply('STALE', 'output stands at ' .. at[2] .. ', not at ' .. A[4])
end
if ENDED[get(id, 'state')] or get(id, 'exit_code') then return reply('STALE', 'the output is complete') end
if A[9] ~= '' then call('APPEND', key('out:' .. id), A[9]) end
for i = 10, #A, 2 do call('SETRANGE', key('ring:' .. id), A[i], A[i + 1]) end
call('HSET', job, 'raw', A[6], 'text', A[7], 'head', A[8])
if A[9] ~= '' then news('o', id) end
return reply('OK')
