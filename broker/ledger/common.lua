-- Shared by the four scripts: where things are, and the ways an invocation moves. Each script is this text plus its own.
local JOB, QUEUE, WIP = 'rq:job:', 'rq:queue:', 'rq:wip:'
local FINISHED, FAILED, SCHEDULED, RESULTS = 'rq:finished:', 'rq:failed:', 'rq:scheduled:', 'rq:results:'
local BOOKS, WAKE = 'broker:books:', 'broker:wake'
local OPEN, FAILING, ENDED = 'broker:open:', 'broker:failing:', 'broker:ended:'

local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000 -- seconds; the one clock that every host shares
local now_ms = math.floor(now * 1000)

-- The arguments are read one after another.
local cursor = 0
local function take()
  cursor = cursor + 1
  return ARGV[cursor]
end
local function take_number() return tonumber(take()) end

-- What a call adds up, written once at its end: table[key][field] = sum.
local sums = {}
local function add(key, field, n)
  local row = sums[key]
  if not row then
    row = {}
    sums[key] = row
  end
  row[field] = (row[field] or 0) + n
end

local rung = {}
local function ring(queue) rung[queue] = true end

local function finish_call()
  for key, row in pairs(sums) do
    for field, n in pairs(row) do redis.call('HINCRBY', key, field, n) end
  end
  for queue in pairs(rung) do redis.call('PUBLISH', WAKE, queue) end
end

-- Put an invocation where it waits: at the back (or the front) of its queue, or among the scheduled ones.
local function wait_in_queue(queue, id, front)
  local length = redis.call(front and 'LPUSH' or 'RPUSH', QUEUE .. queue, id)
  if length == 1 then ring(queue) end
end
local function wait_until(queue, id, due)
  redis.call('ZADD', SCHEDULED .. queue, due, id)
  ring(queue) -- so that idle workers learn of the new due time
end

-- One order: ten arguments, as Ledger._order writes them.
local function take_order()
  return {
    queue = take(), id = take(), data = take(), description = take(), timeout = take(), keep = take(),
    max_queue = take_number(), delay = take_number(), track = take(), event = take(), reply = take(),
  }
end
local function is_known(order) return redis.call('EXISTS', JOB .. order.id) == 1 end
local function accept(order, now_iso)
  local later = order.delay > 0
  local job = {
    'status', later and 'scheduled' or 'queued', 'origin', order.queue, 'data', order.data,
    'description', order.description, 'created_at', now_iso, 'enqueued_at', now_iso,
    'timeout', order.timeout, 'result_ttl', order.keep, 'at', string.format('%.0f', now_ms),
  }
  if order.track ~= '' then
    job[#job + 1] = 'track'
    job[#job + 1] = order.track
    redis.call('HINCRBY', OPEN .. order.track, order.event, 1)
  end
  if order.event ~= '' then
    job[#job + 1] = 'event'
    job[#job + 1] = order.event
  end
  if order.reply ~= '' then
    job[#job + 1] = 'reply'
    job[#job + 1] = order.reply
  end
  redis.call('HSET', JOB .. order.id, unpack(job))
  if later then
    wait_until(order.queue, order.id, now + order.delay)
  else
    wait_in_queue(order.queue, order.id)
  end
  add(BOOKS .. order.queue, 'accepted', 1)
end
