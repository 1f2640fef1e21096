-- Completes the output at a job's end. A: id, lease, bytes that must be readable before; then either 'line' and a line, or
-- 'ring', place and count. Replies: OK | STALE why.
local id, lease, readable, kind = A[1], A[2], tonumber(A[3]), A[4]
local refused = stale(id, lease)
if refused then return refused end
local out = key('out:' .. id)
if call('STRLEN', out) ~= readable then return reply('STALE', 'other output is readable') end
if kind == 'line' then
  call('APPEND', out, A[5])
else
  call('APPEND', out, call('GETRANGE', key('ring:' .. id), A[5], tonumber(A[5]) + tonumber(A[6]) - 1))
end
news('o', id)
return reply('OK')
