-- claim: lease waiting invocations to a worker, at most as many of each queue as it asks for.
-- ARGV: worker, now (ISO 8601), first execution number, n, then n times: queue, how many, concurrency (0: no limit),
-- batch size (0: none), batch window in ms.
-- Answers: ms until something that waits falls due (-1: nothing does), then the claimed:
-- {queue, id, execution, data, attempt, failures, crashes, at (ms)}.
local worker, now_iso, execution, n = take(), take(), take_number(), take_number()
local next_due = -1
local function due_in(ms)
  if ms < 0 then ms = 0 end
  if next_due < 0 or ms < next_due then next_due = ms end
end

local function move_due(queue)
  local key = SCHEDULED .. queue
  local due = redis.call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, 200)
  if #due > 0 then
    for _, id in ipairs(due) do redis.call('HSET', JOB .. id, 'status', 'queued') end
    redis.call('ZREM', key, unpack(due))
    redis.call('RPUSH', QUEUE .. queue, unpack(due))
  end
  local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  if first[2] then due_in(math.ceil((tonumber(first[2]) - now) * 1000)) end
end

-- A batch goes when it is full, or when its first event has waited for the window.
local function is_batch_due(queue, size, window)
  if redis.call('LLEN', QUEUE .. queue) >= size then return true end
  local first = redis.call('LINDEX', QUEUE .. queue, 0)
  if not first then return false end
  local left = tonumber(redis.call('HGET', JOB .. first, 'at') or 0) + window - now_ms
  if left <= 0 then return true end
  due_in(left)
  return false
end

local claimed = {}
local left = {} -- function -> how many it may still get; its three queues share what the worker asks for
for _ = 1, n do
  local queue, want, concurrency, batch, window = take(), take_number(), take_number(), take_number(), take_number()
  move_due(queue)
  local name = string.match(queue, '^[^.]+')
  if left[name] == nil then
    if concurrency > 0 then
      local running = 0
      for _, lane in ipairs({ name .. '.high', name, name .. '.low' }) do
        running = running + redis.call('ZCARD', WIP .. lane)
      end
      want = math.min(want, concurrency - running)
    end
    left[name] = want
  end
  want = left[name]
  if want > 0 and (batch == 0 or is_batch_due(queue, batch, window)) then
    local leases = {}
    for _, id in ipairs(redis.call('LPOP', QUEUE .. queue, want) or {}) do
      local key = JOB .. id
      local job = redis.call('HMGET', key, 'status', 'data', 'attempt', 'failures', 'crashes', 'at')
      if job[2] and job[1] == 'queued' then
        local attempt = (tonumber(job[3]) or 0) + 1
        local lease = worker .. '.' .. string.format('%x', execution)
        execution = execution + 1
        redis.call('HSET', key, 'status', 'started', 'worker_name', worker, 'started_at', now_iso, 'attempt', attempt)
        leases[#leases + 1] = '+inf' -- the lease that runs out is the worker's own, in broker:workers
        leases[#leases + 1] = id .. ':' .. lease
        claimed[#claimed + 1] = { queue, id, lease, job[2], attempt, tonumber(job[4]) or 0, tonumber(job[5]) or 0, job[6] or '' }
      else
        add(BOOKS .. queue, 'vanished', 1) -- deleted or changed by another tool while it waited
      end
    end
    if #leases > 0 then
      redis.call('ZADD', WIP .. queue, unpack(leases))
      left[name] = left[name] - #leases / 2
    end
  end
end
finish_call()
return { next_due, claimed }
