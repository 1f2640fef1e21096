-- Put after _common.lua for every script but rebuild: the memory must be the one that the caller knows.
do
  local state = call('HMGET', KEYS[1], 'epoch', 'counter')
  if state[1] ~= ARGV[2] or tonumber(state[2] or '0') < tonumber(ARGV[3]) then
    return { 'EPOCH', 0 }
  end
end
