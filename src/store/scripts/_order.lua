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
