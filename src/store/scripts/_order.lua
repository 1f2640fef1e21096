-- Orders: having one looked at.
--
-- Invariant: whoever is about to write an order has read how often it was woken, and leaves it due if that has changed since.

local function wake_order(order)
  if redis.call('SISMEMBER', key('orders:active'), order) == 1 then
    redis.call('HINCRBY', key('order:' .. order), 'woken', 1)
    redis.call('ZADD', key('orders:due'), 0, order)
    news('d', order)
  end
end

-- Has all orders of an environment looked at, of which something may follow.
local function wake_orders_of(environment)
  for _, order in ipairs(redis.call('SMEMBERS', key('orders:active'))) do
    if string.match(order, '^(.*)/') == environment then
      wake_order(order)
    end
  end
end
