-- settle: write down how attempts ended, and give their leases back.
-- ARGV: worker, now (ISO 8601), day (UTC), log entries kept, n, then n settlements; each: verdict, queue, id, execution,
-- keep (s), result (base64), exception (base64), delay (s), reason, failed (0/1), crashed (0/1), body for a waiting
-- publisher, billed ms, MB, cold (0/1), log bytes, k, k log entries, m, then m orders that follow from it.
-- Answers one number a settlement: 1 written, 0 refused because the lease (or the dead letter) was not there any more.
--   finished  it succeeded                          release  not started; back to the front, as if never claimed
--   retry     it runs again after the delay         replay   a dead letter runs again
--   dead      it is a dead letter now               drop     a dead letter is forgotten
local worker, now_iso, day, log_entries = take(), take(), take(), take()

local function function_of(queue) return string.match(queue, '^[^.]+') end

-- Tell those who wait that an invocation has ended for good.
local function tell(id, job, ok, body)
  local track, event, reply = job[2], job[3], job[4]
  if reply then redis.call('PUBLISH', reply, id .. '\n' .. (ok and '1' or '0') .. '\n' .. body) end
  if not track then return end
  local open, failing = OPEN .. track, FAILING .. track
  if not ok then redis.call('HINCRBY', failing, event, 1) end
  if redis.call('HINCRBY', open, event, -1) <= 0 then
    redis.call('RPUSH', ENDED .. track, (redis.call('HGET', failing, event) or '0') .. '\n' .. event)
    redis.call('HDEL', open, event)
    redis.call('HDEL', failing, event)
  end
end

local finished = {} -- queue -> {score, id, ...}
local function settle(s)
  local key = JOB .. s.id
  if s.verdict == 'replay' or s.verdict == 'drop' then
    if redis.call('ZREM', FAILED .. s.queue, s.id) == 0 then return 0 end
    if s.verdict == 'drop' then
      redis.call('DEL', key, RESULTS .. s.id)
      add(BOOKS .. s.queue, 'dropped', 1)
    else
      redis.call('HSET', key, 'status', 'queued', 'at', string.format('%.0f', now_ms))
      wait_in_queue(s.queue, s.id)
      add(BOOKS .. s.queue, 'replayed', 1)
    end
    return 1
  end

  if redis.call('ZREM', WIP .. s.queue, s.id .. ':' .. s.execution) == 0 then return 0 end
  local job = redis.call('HMGET', key, 'status', 'track', 'event', 'reply')
  if job[1] ~= 'started' then -- cancelled or deleted by another tool while it ran
    if not job[1] then add(BOOKS .. s.queue, 'vanished', 1) end
    return 0
  end
  if s.verdict == 'finished' then
    redis.call('HSET', key, 'status', 'finished', 'ended_at', now_iso)
    local result = { 'type', 1, 'worker_name', worker }
    if s.result ~= '' then
      result[5] = 'return_value'
      result[6] = s.result
    end
    redis.call('XADD', RESULTS .. s.id, 'MAXLEN', 10, '*', unpack(result))
    redis.call('EXPIRE', RESULTS .. s.id, s.keep)
    redis.call('EXPIRE', key, s.keep)
    local rows = finished[s.queue]
    if not rows then
      rows = {}
      finished[s.queue] = rows
    end
    rows[#rows + 1] = now + s.keep
    rows[#rows + 1] = s.id
    add(BOOKS .. s.queue, 'finished', 1)
    tell(s.id, job, true, s.body)
  elseif s.verdict == 'dead' then
    redis.call('HSET', key, 'status', 'failed', 'ended_at', now_iso, 'reason', s.reason, 'failures', 0, 'crashes', 0)
    redis.call('XADD', RESULTS .. s.id, 'MAXLEN', 10, '*', 'type', 2, 'worker_name', worker, 'exc_string', s.exception)
    redis.call('ZADD', FAILED .. s.queue, '+inf', s.id)
    tell(s.id, job, false, s.body)
  elseif s.verdict == 'retry' then
    redis.call('HSET', key, 'status', s.delay > 0 and 'scheduled' or 'queued', 'reason', s.reason)
    if s.failed > 0 then redis.call('HINCRBY', key, 'failures', 1) end
    if s.crashed > 0 then redis.call('HINCRBY', key, 'crashes', 1) end
    if s.delay > 0 then wait_until(s.queue, s.id, now + s.delay) else wait_in_queue(s.queue, s.id) end
  else
    redis.call('HSET', key, 'status', 'queued')
    redis.call('HINCRBY', key, 'attempt', -1)
    wait_in_queue(s.queue, s.id, true)
    return 1
  end
  local usage = 'broker:usage:' .. day .. ':' .. function_of(s.queue)
  add(usage, 'requests', 1)
  if s.failed > 0 then add(usage, 'errors', 1) end
  add(usage, 'billed_ms', s.billed)
  add(usage, 'mb_ms', s.billed * s.megabytes)
  if s.cold > 0 then add(usage, 'cold_starts', 1) end
  if s.log_bytes > 0 then add(usage, 'log_bytes', s.log_bytes) end
  return 1
end

local answers = {}
for i = 1, take_number() do
  local s = {
    verdict = take(), queue = take(), id = take(), execution = take(), keep = take_number(), result = take(),
    exception = take(), delay = take_number(), reason = take(), failed = take_number(), crashed = take_number(),
    body = take(), billed = take_number(), megabytes = take_number(), cold = take_number(),
    log_bytes = take_number(),
  }
  local entries, orders = {}, {}
  for k = 1, take_number() do entries[k] = take() end
  for k = 1, take_number() do orders[k] = take_order() end
  answers[i] = settle(s)
  for _, entry in ipairs(entries) do -- what was printed was printed, also by a worker that lost its lease
    redis.call('XADD', 'broker:logs:' .. function_of(s.queue), 'MAXLEN', '~', log_entries, '*', 'i', s.id, 'l', entry)
  end
  if answers[i] == 1 then
    for _, order in ipairs(orders) do
      redis.call('SADD', 'rq:queues', QUEUE .. order.queue)
      if not is_known(order) then accept(order, now_iso) end
    end
  end
end
for queue, rows in pairs(finished) do
  redis.call('ZADD', FINISHED .. queue, unpack(rows))
  redis.call('ZREMRANGEBYSCORE', FINISHED .. queue, '-inf', '(' .. now)
end
finish_call()
return answers
