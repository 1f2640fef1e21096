-- Replaces the list of apps. A: '1' to force, then id and JSON of each app. Replies: OK | SHRUNK count.
local count = call('HLEN', key('apps'))
local given = (#A - 1) / 2
if A[1] ~= '1' and (given == 0 or given * 2 < count) then return reply('SHRUNK', count) end
call('DEL', key('apps'))
for i = 2, #A, 2 do call('HSET', key('apps'), A[i], A[i + 1]) end
call('HSET', key('apps_meta'), 'count', given, 'at_ms', int(now()))
return changed('OK')
