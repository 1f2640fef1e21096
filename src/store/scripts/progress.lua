-- Stores what a container reports over what is there. A: id, then name and JSON of each field. Replies: OK | NONE.
local id = A[1]
local state = get(id, 'state')
if not state or ENDED[state] then return reply('NONE') end
local job = key('job:' .. id)
-- Kept as a list of name and JSON: decoding and encoding a whole report would turn empty lists into objects.
local kept = {}
for name, text in string.gmatch(call('HGET', job, 'progress') or '', '([^\n]+)\n([^\n]*)\n') do kept[name] = text end
for i = 2, #A, 2 do kept[A[i]] = A[i + 1] end
local names, parts = {}, {}
for name in pairs(kept) do names[#names + 1] = name end
table.sort(names)
for _, name in ipairs(names) do parts[#parts + 1] = name .. '\n' .. kept[name] .. '\n' end
call('HSET', job, 'progress', table.concat(parts))
news('s', id)
return reply('OK')
