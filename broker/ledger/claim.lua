-- claim: lease waiting invocations to a worker, at most as many of each queue as it asks for.
-- ARGV: worker, now (ISO 8601), first execution number, n, then of n functions: name, how many, concurrency (0: no
-- limit), batch size (0: none), batch window in ms, interval in us from one start to the next (0: no limit), number of the
-- execution that it offers (0: none, negative: none any more; see orders.lua), m, m queues.
-- Executions are WORKER.NUMBER in hexadecimal; each invocation has the next number, and those of a batch share one.
-- Answers {function, ms until something of it that waits falls due, ...}, {queue, number of the first execution, ids,
-- their data, when each was accepted (ms), what is seldom, ...}. Seldom are, flat: position, 'attempt failures crashes told'
-- (told is 1 when somebody waits for its end). Then the time in ms, from which a worker tells its own clock's error, and
-- how many changes to deployed functions there were, if anything was claimed.
local worker, now_iso, execution = take(), take(), take_number()
run_when_full()
local name -- the function that is at hand
local due_of = {} -- function -> ms
local function due_in(ms)
  if ms < 0 then ms = 0 end
  if not due_of[name] or ms < due_of[name] then due_of[name] = ms end
end

local function move_due(queue)
  local key = SCHEDULED .. queue
  local first = call('ZRANGE', key, 0, 0, 'WITHSCORES')
  if not first[2] then return end
  if tonumber(first[2]) <= now then
    local due = call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, 200)
    call('RPUSH', QUEUE .. queue, unpack(due)) -- first: it fails where the queue is no list
    call('ZREM', key, unpack(due))
    for _, id in ipairs(due) do try('HSET', JOB .. id, 'status', 'queued') end
    first = call('ZRANGE', key, 0, 0, 'WITHSCORES')
  end
  if first[2] then due_in(math.ceil((tonumber(first[2]) - now) * 1000)) end
end

-- A batch goes when it is full, or when its first event has waited for the window.
local function is_batch_due(queue, size, window)
  if call('LLEN', QUEUE .. queue) >= size then return true end
  local first = call('LINDEX', QUEUE .. queue, 0)
  if not first then return false end
  local left = tonumber(try('HMGET', JOB .. first, 'at')[1] or 0) + window - tonumber(now_ms)
  if left <= 0 then return true end
  due_in(left)
  return false
end

-- How many attempts of a function run, on all hosts; the invocations of a batch are one attempt and share its execution.
local function running(batch)
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
local function read_rate(interval)
  local at = tonumber(call('GET', RATE .. name) or 0)
  -- Long ago: it has rested. Ahead of us by more than an interval: the clock was set back, or the rate was raised.
  if micros - at > LATE or at - micros > interval then at = micros end
  return at, at > micros and 0 or math.floor((micros - at) / interval) + 1
end
local function write_rate(at, interval, starts, queues)
  at = at + starts * interval
  if starts > 0 then
    call('SET', RATE .. name, string.format('%.0f', at), 'PX', math.ceil((at - micros + LATE) / 1000))
  end
  for _, queue in ipairs(at > micros and queues or {}) do
    if call('LLEN', QUEUE .. queue) > 0 then due_in(math.ceil((at - micros) / 1000)) end
  end
end

local groups = {}
local is_suspended = call('EXISTS', 'rq:suspended') == 1 -- a worker knows of it only from its next beat on

-- Lease up to `want` of a queue, and append them to the answer. Returns how many; those of a batch share one execution.
local function lease(queue, want, batch)
  look_at(queue, WIP)
  local ids = call('LPOP', QUEUE .. queue, want)
  if not ids then return 0 end
  local first, count, waiting = execution, 0, #ids
  local data, at, seldom, members = {}, {}, {}, {}
  local prefix = ':' .. worker .. '.'
  local run = prefix .. string.format('%x', execution)
  for i = 1, waiting do
    local id = ids[i]
    local key = JOB .. id
    local job = try('HMGET', key, 'status', 'data', 'at', 'attempt')
    if batch == 0 then run = prefix .. string.format('%x', first + count) end
    local attempt, past = '1', nil
    if job[4] then
      past = call('HMGET', key, 'failures', 'crashes', 'turn', 'told')
      attempt = tonumber(job[4]) + 1
    end
    if not job[2] or job[1] ~= 'queued' then
      add(BOOKS .. queue, 'vanished', 1) -- deleted or changed by another tool while it waited
      if not job[2] and not job.err then call('DEL', key) end -- what move_due may have written into nothing
      due_in(0) -- so that the worker asks again for what it did not get
    elseif past and past[3] and not take_turn(past[3], queue, id, string.sub(run, 2)) then
      due_in(0) -- it had been delayed, or RQ's tools requeued it; meanwhile another has got the turn
    else
      call('HSET', key, 'status', 'started', 'worker_name', worker, 'started_at', now_iso, 'attempt', attempt)
      count = count + 1
      ids[count], data[count], at[count] = id, job[2], tonumber(job[3]) or 0
      members[2 * count - 1], members[2 * count] = '+inf', id .. run -- it is the worker's own lease that ends
      if past then
        local told = attempt .. ' ' .. (past[1] or 0) .. ' ' .. (past[2] or 0) .. ' ' .. (past[4] and 1 or 0)
        seldom[#seldom + 1], seldom[#seldom + 2] = count, told
      end
    end
  end
  for i = count + 1, waiting do ids[i] = nil end
  if count > 0 then
    each_thousand({ [queue] = members }, function(_, ...) call('ZADD', WIP .. queue, ...) end)
    local length = #groups
    groups[length + 1], groups[length + 2], groups[length + 3] = queue, first, ids
    groups[length + 4], groups[length + 5], groups[length + 6] = data, at, seldom
    if batch == 0 then execution = execution + count end
  end
  return count
end

-- Offer: of what is published next, the worker wants one at once, as the execution of that number. It is void when there
-- was something for it now, and a negative number takes it back.
local function offer(number, claimed)
  if number < 0 or claimed > 0 then
    call('ZREM', IDLE .. name, worker)
  else
    write_offer(name, worker, number)
  end
end

for _ = 1, take_number() do
  name = take()
  local left, concurrency, batch, window = take_number(), take_number(), take_number(), take_number()
  local interval, offered, queues, starts, at, allowed = take_number(), take_number(), {}, 0, nil, nil
  for i = 1, take_number() do queues[i] = take() end
  if concurrency > 0 then
    local free = concurrency - running(batch)
    left = batch == 0 and math.min(left, free) or free > 0 and left or 0
  end
  if interval > 0 then
    at, allowed = read_rate(interval)
    left = batch == 0 and math.min(left, allowed) or allowed > 0 and left or 0
  end
  if is_suspended then left = 0 end
  for _, queue in ipairs(queues) do
    move_due(queue)
    if left > 0 and (batch == 0 or is_batch_due(queue, batch, window)) then
      local count = lease(queue, left, batch)
      left, starts = left - count, starts + count
    end
  end
  if offered ~= 0 then offer(offered, starts) end
  if batch > 0 and starts > 0 then
    starts = 1
    execution = execution + 1
  end
  if interval > 0 then write_rate(at, interval, starts, queues) end
end
-- Whoever holds something has a lease that can run out, even a worker whose claim came when it had none any more.
local FIRST_LEASE = 3000 -- ms
if groups[1] then call('ZADD', WORKERS, 'NX', now_ms + FIRST_LEASE, worker) end
finish_call()
local waits = {}
for owner, ms in pairs(due_of) do waits[#waits + 1], waits[#waits + 2] = owner, ms end
-- A deploy that was over before what is claimed was accepted is in the last number; see broker/deployed/catalog.py.
return { waits, groups, now_ms, groups[1] and call('GET', 'broker:functions:changes') or '0' }
