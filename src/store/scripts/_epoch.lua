-- The check of the memory, with which every script begins but `rebuild`.
--
-- Invariant: a dispatcher changes nothing in a memory that it does not know, or that has lost what the dispatcher has seen.

epoch, counter = string.match(redis.call('MGET', KEYS[1])[1] or '', '^(%S+) (%d+)$')
counter = tonumber(counter or '')
if epoch ~= ARGV[1] or counter < tonumber(ARGV[2]) then
  return { 'EPOCH' }
end
