-- The check of the memory, with which every script begins but `rebuild`.
--
-- Invariant: a dispatcher changes nothing in a memory that it does not know, or that has lost what the dispatcher has seen.

local memory = redis.call('HMGET', KEYS[1], 'epoch', 'counter')
counter = tonumber(memory[2] or '')
if memory[1] ~= ARGV[1] or not counter or counter < tonumber(ARGV[2]) then
  return { 'EPOCH' }
end
