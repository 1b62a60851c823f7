-- publish: take on invocations. What it has answered 1 for is owed, whatever dies next.
-- ARGV: now (ISO 8601), order lines, n, then n times: number of the event, order. All invocations of one event are taken
-- on, or none. Answers one number an order: 1 accepted, 0 duplicate (its record exists), -1 the event met a full queue; or
-- {0, ID}: a duplicate of that invocation, {1, ID}: accepted in the place of that one, which waited for quiet.
local now_iso, lines, n = take(), take_lines(), take_number()
local answers, orders, events, refused = {}, {}, {}, {}
local first_of, same = {}, {} -- id or unique key -> number of the order; number -> that of an earlier order for the same

for _, line in ipairs(lines) do
  look_at_line(line)
  call('SADD', 'rq:queues', QUEUE .. line.queue)
end
for i = 1, n do
  local event = take()
  local order = take_order(lines)
  events[i], orders[i] = event, order
  local unique = order.flow.unique
  same[i] = first_of[order.id] or unique and first_of[unique]
  local known = not same[i] and known_as(order)
  if known then
    answers[i] = known == order.id and 0 or { 0, known }
  elseif not same[i] then
    first_of[order.id] = i
    if unique then first_of[unique] = i end
    local line = order.line
    line.waiting = line.waiting + 1
    if line.waiting > line.max_queue then
      refused[event] = true
      add(USAGE .. string.sub(now_iso, 1, 10) .. ':' .. function_of(line.queue), 'throttles', 1)
    end
  end
end
for i = 1, n do -- a duplicate of what is refused here is in no place either
  if same[i] and refused[events[same[i]]] then refused[events[i]] = true end
end
for i = 1, n do
  if answers[i] == nil then
    local order = orders[i]
    if refused[events[i]] then
      answers[i] = -1
    elseif same[i] then
      local other = orders[same[i]].id
      answers[i] = other == order.id and 0 or { 0, other }
    else
      local superseded = accept(order, now_iso)
      answers[i] = superseded and { 1, superseded } or 1
    end
  end
end
finish_call()
return answers
