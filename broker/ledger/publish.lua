-- publish: take on invocations. What it has answered 1 for is owed, whatever dies next.
-- ARGV: now (ISO 8601), order lines, n, then n times: number of the event, order. All invocations of one event are taken
-- on, or none. Answers one number an order: 1 accepted, 0 duplicate (its record exists), -1 the event met a full queue.
local now_iso, lines, n = take(), take_lines(), take_number()
local answers, orders, events, joined, refused = {}, {}, {}, {}, {}

for _, line in ipairs(lines) do
  line.waiting = call('LLEN', QUEUE .. line.queue) + call('ZCARD', SCHEDULED .. line.queue)
    + call('ZCARD', DEFERRED .. line.queue)
  call('SADD', 'rq:queues', QUEUE .. line.queue)
end
for i = 1, n do
  local event = take()
  local order = take_order(lines)
  events[i], orders[i] = event, order
  if joined[order.id] or is_known(order) then
    answers[i] = 0
  else
    joined[order.id] = true
    local line = order.line
    line.waiting = line.waiting + 1
    if line.waiting > line.max_queue then
      refused[event] = true
      add(USAGE .. string.sub(now_iso, 1, 10) .. ':' .. function_of(line.queue), 'throttles', 1)
    end
  end
end
for i = 1, n do
  if answers[i] == nil then
    if refused[events[i]] then
      answers[i] = -1
    else
      accept(orders[i], now_iso)
      answers[i] = 1
    end
  end
end
finish_call()
return answers
