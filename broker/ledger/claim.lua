-- claim: lease waiting invocations to a worker, at most as many of each queue as it asks for.
-- ARGV: worker, now (ISO 8601), first execution number, interval in us from one start of a function to the next (0: no
-- limit), n, then n times: queue, how many, concurrency (0: no limit), batch size (0: none), batch window in ms. The
-- queues of one function follow each other and share what is asked for.
-- Answers: ms until something that waits falls due (-1: nothing does), then the claimed:
-- {queue, id, execution, data, attempt, failures, crashes, at (ms), told (0/1: somebody waits for its end)}.
local worker, now_iso, execution, interval, n = take(), take(), take_number(), take_number(), take_number()
local next_due = -1
local function due_in(ms)
  if ms < 0 then ms = 0 end
  if next_due < 0 or ms < next_due then next_due = ms end
end

local function move_due(queue)
  local key = SCHEDULED .. queue
  local first = call('ZRANGE', key, 0, 0, 'WITHSCORES')
  if not first[2] then return end
  if tonumber(first[2]) <= now then
    local due = call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, 200)
    for _, id in ipairs(due) do call('HSET', JOB .. id, 'status', 'queued') end
    call('ZREM', key, unpack(due))
    call('RPUSH', QUEUE .. queue, unpack(due))
    first = call('ZRANGE', key, 0, 0, 'WITHSCORES')
  end
  if first[2] then due_in(math.ceil((tonumber(first[2]) - now) * 1000)) end
end

-- A batch goes when it is full, or when its first event has waited for the window.
local function is_batch_due(queue, size, window)
  if call('LLEN', QUEUE .. queue) >= size then return true end
  local first = call('LINDEX', QUEUE .. queue, 0)
  if not first then return false end
  local left = tonumber(call('HGET', JOB .. first, 'at') or 0) + window - tonumber(now_ms)
  if left <= 0 then return true end
  due_in(left)
  return false
end

-- How many attempts of a function run, on all hosts; the invocations of a batch are one attempt and share its execution.
local function running(name, batch)
  local sum, seen = 0, {}
  for _, lane in ipairs({ name .. '.high', name, name .. '.low' }) do
    if batch == 0 then
      sum = sum + call('ZCARD', WIP .. lane)
    else
      for _, member in ipairs(call('ZRANGE', WIP .. lane, 0, -1)) do
        local run = string.match(member, ':(.+)$')
        if not seen[run] then sum = sum + 1 end
        seen[run] = true
      end
    end
  end
  return sum
end

-- The rate: the moment from which on the next start may be is kept. A start that comes up to LATE after it does not put
-- off those that follow; so in a time t there are at most (t + LATE) / interval + 1 starts.
local LATE = 10000 -- us
local rates = {} -- function -> {at: that moment in us, allowed: how many starts now, starts, queues}
local function rate_of(name)
  local at = tonumber(call('GET', RATE .. name) or 0)
  -- Long ago: it has rested. Ahead of us by more than an interval: the clock was set back, or the rate was raised.
  if micros - at > LATE or at - micros > interval then at = micros end
  local allowed = at > micros and 0 or math.floor((micros - at) / interval) + 1
  rates[name] = { at = at, allowed = allowed, starts = 0, queues = {} }
  return rates[name]
end
local function write_rates()
  for name, rate in pairs(rates) do
    local at = rate.at + rate.starts * interval
    if rate.starts > 0 then
      call('SET', RATE .. name, string.format('%.0f', at), 'PX', math.ceil((at - micros + LATE) / 1000))
    end
    for _, queue in ipairs(at > micros and rate.queues or {}) do
      if call('LLEN', QUEUE .. queue) > 0 then due_in(math.ceil((at - micros) / 1000)) end
    end
  end
end

local claimed, leases = {}, {}
local left = {} -- function -> how many it may still get
for _ = 1, n do
  local queue, want, concurrency, batch, window = take(), take_number(), take_number(), take_number(), take_number()
  move_due(queue)
  local name = string.match(queue, '^[^.]+')
  if left[name] == nil then
    left[name] = want
    if concurrency > 0 then
      local free = concurrency - running(name, batch)
      left[name] = batch == 0 and math.min(want, free) or free > 0 and want or 0
    end
    if interval > 0 then
      local allowed = rate_of(name).allowed
      left[name] = batch == 0 and math.min(left[name], allowed) or allowed > 0 and left[name] or 0
    end
  end
  local rate = rates[name]
  if rate then rate.queues[#rate.queues + 1] = queue end
  if left[name] > 0 and (batch == 0 or is_batch_due(queue, batch, window)) then
    for _, id in ipairs(call('LPOP', QUEUE .. queue, left[name]) or {}) do
      local key = JOB .. id
      local job = call('HMGET', key, 'status', 'data', 'at', 'attempt', 'told')
      if job[2] and job[1] == 'queued' then
        local attempt, failures, crashes = 1, 0, 0
        if job[4] then
          local past = call('HMGET', key, 'failures', 'crashes')
          attempt, failures, crashes = tonumber(job[4]) + 1, tonumber(past[1]) or 0, tonumber(past[2]) or 0
        end
        local lease = string.format('%s.%x', worker, execution)
        if batch == 0 then execution = execution + 1 end
        if rate then rate.starts = batch == 0 and rate.starts + 1 or 1 end
        left[name] = left[name] - 1
        call('HSET', key, 'status', 'started', 'worker_name', worker, 'started_at', now_iso, 'attempt', attempt)
        append(leases, queue, '+inf', id .. ':' .. lease) -- what runs out is the worker's own lease, in broker:workers
        claimed[#claimed + 1] = {
          queue, id, lease, job[2], attempt, failures, crashes, job[3] or '', job[5] and 1 or 0,
        }
      else
        add(BOOKS .. queue, 'vanished', 1) -- deleted or changed by another tool while it waited
      end
    end
  end
end
each_thousand(leases, function(queue, ...) call('ZADD', WIP .. queue, ...) end)
write_rates()
finish_call()
return { next_due, claimed }
