-- publish: take on invocations. What it has answered 1 for is owed, whatever dies next.
-- ARGV: now (ISO 8601), n, then n orders. Each order carries its event's number: all invocations of one event are taken
-- on, or none. Answers one number an order: 1 accepted, 0 duplicate (its record exists), -1 the event met a full queue.
local now_iso, n = take(), take_number()
local answers, orders, waiting, joined, refused = {}, {}, {}, {}, {}

for i = 1, n do
  local group = take()
  local order = take_order()
  order.group = group
  orders[i] = order
  local queue = order.queue
  if not waiting[queue] then
    waiting[queue] = redis.call('LLEN', QUEUE .. queue) + redis.call('ZCARD', SCHEDULED .. queue)
    redis.call('SADD', 'rq:queues', QUEUE .. queue)
  end
  if joined[order.id] or is_known(order) then
    answers[i] = 0
  else
    joined[order.id] = true
    waiting[queue] = waiting[queue] + 1
    if waiting[queue] > order.max_queue then refused[group] = true end
  end
end
for i = 1, n do
  if answers[i] == nil then
    if refused[orders[i].group] then
      answers[i] = -1
    else
      accept(orders[i], now_iso)
      answers[i] = 1
    end
  end
end
finish_call()
return answers
