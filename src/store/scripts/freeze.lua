-- Freezes an inventory. A: inventory, reason, by, milliseconds until it ends ('' for never). Replies: OK json.
local inventory, reason, by, lasts = unpack(A)
local freeze = { reason = reason, by = by }
if lasts ~= '' then freeze['until_ms'] = now() + tonumber(lasts) end
local text = cjson.encode(freeze)
call('HSET', key('freezes'), inventory, text)
return changed('OK', text)
