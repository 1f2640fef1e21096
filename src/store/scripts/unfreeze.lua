-- Lifts a freeze. A: inventory. Replies: OK | NONE.
if call('HDEL', key('freezes'), A[1]) == 0 then return reply('NONE') end
return changed('OK')
