-- audit: the books of every queue, all of one moment. It writes nothing, and stands alone.
-- Answers a row for each queue: queue, queued, scheduled, deferred, leased, dead, cancelled, then its sums: field, value ...
-- An attempt that was cancelled while it ran goes on until it ends; it is counted as cancelled, and not as leased.
local call = redis.call

local function leased_of(queue)
  local members = call('ZRANGE', 'rq:wip:' .. queue, 0, -1)
  local leased = #members
  for first = 1, #members, 1000 do
    local ids = {}
    for i = first, math.min(first + 999, #members) do ids[#ids + 1] = string.match(members[i], '^[^:]+') end
    for _, score in ipairs(call('ZMSCORE', 'rq:canceled:' .. queue, unpack(ids))) do
      if score then leased = leased - 1 end
    end
  end
  return leased
end

local rows = {}
for _, key in ipairs(call('SMEMBERS', 'rq:queues')) do
  local queue = string.sub(key, #'rq:queue:' + 1)
  local cancelled = call('ZCARD', 'rq:canceled:' .. queue)
  local leased = cancelled == 0 and call('ZCARD', 'rq:wip:' .. queue) or leased_of(queue)
  rows[#rows + 1] = {
    queue, call('LLEN', key), call('ZCARD', 'rq:scheduled:' .. queue), call('ZCARD', 'rq:deferred:' .. queue), leased,
    call('ZCARD', 'rq:failed:' .. queue), cancelled, unpack(call('HGETALL', 'broker:books:' .. queue)),
  }
end
return rows
