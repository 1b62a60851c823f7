-- settle: write down how attempts ended, and give their leases back.
-- ARGV: worker, now (ISO 8601), day (UTC), log entries kept, order lines, then
--   p, p groups of what is usual, finished without a result or anything else to do: queue, keep (s), MB, and of a batch
--     number of the execution (the rest of its name is the worker's), billed ms, m, m ids; of others '', '', m, and
--     m times id, number of the execution, billed ms;
--   n, n settlements: verdict, queue, id, execution, result (base64), keep (s), billed ms, MB, details (JSON, or ''),
--     m, m orders that follow from it;
--   number of the telling ('' when nothing follows), k, k log entries: function, lines (JSON);
--   c, c times function, processor time (microseconds).
-- The last two are written whoever holds the leases: what was printed was printed, what was spent was spent. But a worker
-- that lost our answer tells them again, with the same number, and then they are there already.
-- Details: error (base64), delay (s), reason, failed, crashed, stopped, cold, again, told, body (for a waiting publisher).
-- Billed is empty where nothing is metered: for what was not run, and for all of a batch but its first.
-- Answers the positions, counted over groups and settlements, of what was refused because the lease (or the dead letter)
-- was not there any more.
--   finished  it succeeded                          release  not started; back to the front, as if never claimed
--   retry     it runs again after the delay         replay   a dead letter runs again
--   dead      it is a dead letter now               drop     a dead letter is forgotten
local worker, now_iso, day, log_entries, lines = take(), take(), take(), take(), take_lines()
run_when_full()
local refused, position = {}, 0

local function read_settlement()
  local s = {
    verdict = take(), queue = take(), id = take(), execution = take(), result = take(), keep = take(),
    billed = take_number(), megabytes = take_number(),
  }
  local details = take()
  s.details = details == '' and NOTHING or cjson.decode(details)
  local count = take_number()
  if count > 0 then
    s.orders = {}
    for k = 1, count do s.orders[k] = take_order(lines) end
  end
  return s
end

-- Give leases of one queue back; return which of them were still held, and not cancelled meanwhile.
local any_canceled = {}
local function give_back(queue, ids, members)
  local is_held = {}
  for first = 1, #ids, 1000 do
    local last = math.min(first + 999, #ids)
    local held = call('ZMSCORE', WIP .. queue, unpack(members, first, last))
    local gone = any_canceled[queue] and call('ZMSCORE', CANCELED .. queue, unpack(ids, first, last)) or NOTHING
    for i = first, last do is_held[i] = held[i - first + 1] and not gone[i - first + 1] end
    call('ZREM', WIP .. queue, unpack(members, first, last))
  end
  return is_held
end

local function find_leases(settlements)
  local rows = {} -- queue -> its settlements that hold a lease
  for _, s in ipairs(settlements) do
    if s.execution ~= '' then append(rows, s.queue, s) end
  end
  for queue, row in pairs(rows) do
    local ids, members = {}, {}
    for i, s in ipairs(row) do ids[i], members[i] = s.id, s.id .. ':' .. s.execution end
    for i, held in pairs(give_back(queue, ids, members)) do row[i].held = held end
  end
end

local finished = {}
local ended = {} -- the keys of the dependents of what finished or failed
local settle = {}

function settle.finished(s)
  local keep = s.keep
  if s.details.again then call('DEL', RESULTS .. s.id) end -- what a dead letter had left, before it was replayed
  if s.result ~= '' then -- of nothing RQ reads nothing: a result of null is not written
    try('XADD', RESULTS .. s.id, '*', 'type', 1, 'worker_name', worker, 'return_value', s.result)
    call('EXPIRE', RESULTS .. s.id, keep)
  end
  append(finished, s.queue, string.format('%.3f', now + keep), s.id)
  ended[#ended + 1] = dependents_of(s.id)
  add(BOOKS .. s.queue, 'finished', 1)
  if s.details.told then tell(s.id, 1, s.details.body) end
end

function settle.dead(s)
  call('HSET', JOB .. s.id, 'status', s.details.stopped and 'stopped' or 'failed', 'ended_at', now_iso,
    'reason', s.details.reason or '', 'failures', 0, 'crashes', 0)
  try('XADD', RESULTS .. s.id, 'MAXLEN', 10, '*', 'type', s.details.stopped and 3 or 2, 'worker_name', worker,
    'exc_string', s.details.error or '')
  call('ZADD', FAILED .. s.queue, now + CENTURY, s.id) -- RQ forgets what is due; in order of their deaths
  if not s.details.stopped then ended[#ended + 1] = dependents_of(s.id) end
  tell(s.id, 0, s.details.body, true)
end

function settle.retry(s)
  local key, delay = JOB .. s.id, s.details.delay or 0
  call('HSET', key, 'status', delay > 0 and 'scheduled' or 'queued', 'reason', s.details.reason or '')
  if s.details.failed then call('HINCRBY', key, 'failures', 1) end
  if s.details.crashed then call('HINCRBY', key, 'crashes', 1) end
  if delay > 0 then wait_until(s.queue, s.id, now + delay) else wait_in_queue(s.queue, s.id) end
end

function settle.release(s)
  local delay = s.details.delay or 0
  call('HSET', JOB .. s.id, 'status', delay > 0 and 'scheduled' or 'queued')
  call('HINCRBY', JOB .. s.id, 'attempt', -1)
  if delay > 0 then wait_until(s.queue, s.id, now + delay) else wait_in_queue(s.queue, s.id, true) end
end

function settle.replay(s)
  local key = JOB .. s.id
  local turn = call('HGET', key, 'turn')
  call('HSET', key, 'status', 'queued', 'at', now_ms)
  call('HDEL', key, 'track', 'event', 'reply') -- who waited for its end was told of it
  if not turn then call('HDEL', key, 'told') end
  if not turn or take_turn(turn, s.queue, s.id) then wait_in_queue(s.queue, s.id) end
  add(BOOKS .. s.queue, 'replayed', 1)
end

function settle.drop(s)
  call('DEL', JOB .. s.id, RESULTS .. s.id)
  add(BOOKS .. s.queue, 'dropped', 1)
end

local meters = {} -- queue -> its function's sums
local function meter(queue)
  local sum = meters[queue]
  if not sum then
    local usage = USAGE .. day .. ':' .. function_of(queue)
    sum = sums[usage] or { requests = 0, billed_ms = 0, mb_ms = 0 }
    sums[usage], meters[queue] = sum, sum
  end
  return sum
end
local function bill(sum, ms, megabytes)
  sum.requests = sum.requests + 1
  sum.billed_ms = sum.billed_ms + ms
  sum.mb_ms = sum.mb_ms + ms * megabytes
end

-- Whether the invocation's record is still there; of one that finished, it says so, and is kept for as long as asked.
local function finish(key, keep)
  return call('EXPIRE', key, keep) == 1
    and type(try('HSET', key, 'status', 'finished', 'ended_at', now_iso)) == 'number'
end
local function has_record(s)
  if s.verdict == 'finished' then return finish(JOB .. s.id, s.keep) end
  return try('HEXISTS', JOB .. s.id, 'status') == 1
end

-- What is usual is most of all there is: hence a loop with as little in it as can be.
local function settle_usual(queue, keep, megabytes, run, billed, n, before)
  local ids, members, bills, done = {}, {}, {}, 0
  local sum, suffix, ends = meter(queue), ':' .. worker .. '.' .. run, string.format('%.3f', now + tonumber(keep))
  if run ~= '' then
    for i = 1, n do
      local id = arguments[before + i]
      ids[i], members[i] = id, id .. suffix
    end
    bills[1] = tonumber(billed)
  else
    for i = 1, n do
      local id = arguments[before + 1]
      ids[i], members[i], bills[i] = id, id .. suffix .. arguments[before + 2], tonumber(arguments[before + 3])
      before = before + 3
    end
  end
  local is_held, row = give_back(queue, ids, members), finished[queue] or {}
  local last, dependents = #row, #ended
  finished[queue] = row
  for i = 1, n do
    local id = ids[i]
    local key = JOB .. id
    if not is_held[i] then
      refused[#refused + 1] = position + i
    elseif not finish(key, keep) then
      refused[#refused + 1] = position + i
      add(BOOKS .. queue, 'vanished', 1) -- deleted by another tool while it ran
    else
      row[last + 1], row[last + 2] = ends, id
      last, dependents, done = last + 2, dependents + 1, done + 1
      ended[dependents] = key .. ':dependents'
      if bills[i] then bill(sum, bills[i], megabytes) end
    end
  end
  position = position + n
  add(BOOKS .. queue, 'finished', done)
end

local seen = {}
local function look_once(queue, ...)
  if seen[queue] then return end
  seen[queue] = true
  any_canceled[queue] = look_at(queue, CANCELED) > 0
  look_at(queue, ...)
end

local groups = {}
for i = 1, take_number() do
  local queue, keep, megabytes, run, billed, n = take(), take(), take_number(), take(), take(), take_number()
  groups[i] = { queue, keep, megabytes, run, billed, n, cursor }
  cursor = cursor + (run == '' and 3 * n or n)
end
local settlements = {}
for i = 1, take_number() do settlements[i] = read_settlement() end
for _, s in ipairs(settlements) do
  look_once(s.queue, WIP, FINISHED, FAILED, SCHEDULED, DEFERRED)
  look_at_queue(s.queue)
  for _, order in ipairs(s.orders or NOTHING) do
    look_at_line(order.line)
  end
end
for _, group in ipairs(groups) do look_once(group[1], WIP, FINISHED) end
for _, group in ipairs(groups) do settle_usual(unpack(group)) end
find_leases(settlements)
for i, s in ipairs(settlements) do
  local written = false
  if s.execution == '' then
    written = call('ZREM', FAILED .. s.queue, s.id) == 1
  elseif s.held then
    written = has_record(s)
    if not written then add(BOOKS .. s.queue, 'vanished', 1) end -- deleted by another tool while it ran
  end
  if written then
    settle[s.verdict](s)
    if s.billed then
      local sum = meter(s.queue)
      bill(sum, s.billed, s.megabytes)
      if s.details.failed then sum.errors = (sum.errors or 0) + 1 end
      if s.details.cold then sum.cold_starts = (sum.cold_starts or 0) + 1 end
    end
    for _, order in ipairs(s.orders or NOTHING) do
      call('SADD', 'rq:queues', QUEUE .. order.line.queue)
      if not known_as(order) then accept(order, now_iso) end
    end
  else
    refused[#refused + 1] = position + i
  end
end
for queue, row in pairs(finished) do
  for first = 1, #row, 1000 do call('ZADD', FINISHED .. queue, unpack(row, first, math.min(first + 999, #row))) end
  call('ZREMRANGEBYSCORE', FINISHED .. queue, '-inf', '(' .. now)
end
put_in_line()
enqueue_dependents(ended, now_iso)
local telling = take()
if telling == '' or call('SET', 'broker:told:' .. worker, telling, 'EX', 3600, 'GET') ~= telling then
  for _ = 1, take_number() do
    local name, entry = take(), take()
    call('XADD', 'broker:logs:' .. name, 'MAXLEN', '~', log_entries, '*', 'l', entry)
    add(USAGE .. day .. ':' .. name, 'log_bytes', #entry)
  end
  for _ = 1, take_number() do add(USAGE .. day .. ':' .. take(), 'cpu_us', take_number()) end
end
finish_call()
return refused
