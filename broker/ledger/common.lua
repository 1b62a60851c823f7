-- Shared by the four scripts: where things are, and the ways an invocation moves. Each script is this text, for some
-- of the others, and its own.
-- Calls and arguments are what costs here, so both are few: what a call adds up is written once, at its end.
local call, arguments = redis.call, ARGV
local try = redis.pcall -- for a record: where another program has put something else, it is as good as gone
local JOB, QUEUE, WIP = 'rq:job:', 'rq:queue:', 'rq:wip:'
local FINISHED, FAILED, SCHEDULED, RESULTS = 'rq:finished:', 'rq:failed:', 'rq:scheduled:', 'rq:results:'
local DEFERRED, CANCELED, TURNS, TURN = 'rq:deferred:', 'rq:canceled:', 'broker:turns', 'broker:turn:'
local BOOKS, WAKE, WORKERS = 'broker:books:', 'broker:wake', 'broker:workers'
local USAGE, KEEP_USAGE = 'broker:usage:', 400 * 86400
local RATE, IDLE = 'broker:rate:', 'broker:idle:'

local clock = call('TIME')
local micros = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local now = micros / 1000000 -- seconds; the one clock that every host shares
local now_ms = string.format('%.0f', math.floor(now * 1000))
local CENTURY = 100 * 365 * 86400 -- s; RQ's tools forget what is due

-- What gives work out or ends it goes on while Redis is at its maxmemory: refused, it could never become less full. A
-- script that has written is let finish, and a DEL is always let in.
local function run_when_full() call('DEL', 'broker:nothing') end

-- The arguments are read one after another.
local cursor = 0
local function take()
  cursor = cursor + 1
  return arguments[cursor]
end
local function take_number() return tonumber(take()) end

local function function_of(queue) return string.match(queue, '^[^.]+') end

local function status_of(id) return try('HMGET', JOB .. id, 'status')[1] end

-- A script that fails has done what it had done. So, before it writes anything, it reads all that it is to write of RQ's
-- own: should another program have made something else of a queue or a sorted set, it fails then.
local function look_at_queue(queue) return call('LLEN', QUEUE .. queue) end
local function look_at(queue, ...)
  local sum = 0
  for i = 1, select('#', ...) do sum = sum + call('ZCARD', select(i, ...) .. queue) end
  return sum
end

-- table[key][field] = sum
local sums = {}
local function add(key, field, n)
  local row = sums[key]
  if not row then
    row = {}
    sums[key] = row
  end
  row[field] = (row[field] or 0) + n
end

-- table[key] = {value, ...}, for commands that take many values at once
local function append(rows, key, value, other)
  local row = rows[key]
  if not row then
    row = {}
    rows[key] = row
  end
  row[#row + 1] = value
  row[#row + 1] = other
end
local function each_thousand(rows, act)
  for key, row in pairs(rows) do
    for first = 1, #row, 1000 do act(key, unpack(row, first, math.min(first + 999, #row))) end
  end
end

local rung, backs, fronts, dues = {}, {}, {}, {}
local function wait_in_queue(queue, id, front) append(front and fronts or backs, queue, id) end
local function wait_until(queue, id, due) append(dues, queue, due, id) end

-- Turns: of all invocations with the same one (FUNCTION:KEY), one is queued, scheduled or leased: it holds the turn. The
-- others wait behind it, RQ's status for that is `deferred`. Nothing here looks at more than the first who waits.
local function holder_of(turn)
  local holder = call('HGET', TURNS, turn) -- QUEUE:ID, or QUEUE:ID:EXECUTION
  return holder and string.match(holder, '^[^:]+:([^:]+)')
end
local function take_turn(turn, queue, id, execution)
  local holder = holder_of(turn)
  if holder and holder ~= id then
    call('HSET', JOB .. id, 'status', 'deferred')
    call('RPUSH', TURN .. turn, queue .. ':' .. id)
    call('ZADD', DEFERRED .. queue, now + CENTURY, id)
    return false
  end
  call('HSET', TURNS, turn, queue .. ':' .. id .. (execution and ':' .. execution or ''))
  return true
end
local MOST_SKIPPED = 1000 -- in one call; then the turn stays with who had it, and recover passes it on
local function pass_turn(turn)
  for _ = 1, MOST_SKIPPED do
    local first = call('LPOP', TURN .. turn)
    if not first then
      call('HDEL', TURNS, turn)
      return
    end
    local queue, id = string.match(first, '^([^:]+):(.+)$')
    local status = status_of(id)
    if call('ZREM', DEFERRED .. queue, id) == 1 and status then
      call('HSET', JOB .. id, 'status', 'queued')
      call('HSET', TURNS, turn, first)
      wait_in_queue(queue, id)
      return
    end
    if not status then add(BOOKS .. queue, 'vanished', 1) end -- deleted by another tool; else it was cancelled
  end
end

local KEEP_OFFERS = 60 -- s; whoever lives renews its own with each beat
local function write_offer(name, worker, number)
  call('ZADD', IDLE .. name, number, worker)
  call('EXPIRE', IDLE .. name, KEEP_OFFERS)
end

local function put_in_line()
  each_thousand(backs, function(queue, ...)
    if call('RPUSH', QUEUE .. queue, ...) == select('#', ...) then rung[queue] = true end
  end)
  for _, row in pairs(fronts) do -- what was first is to be first again
    for i = 1, math.floor(#row / 2) do row[i], row[#row - i + 1] = row[#row - i + 1], row[i] end
  end
  each_thousand(fronts, function(queue, ...)
    if call('LPUSH', QUEUE .. queue, ...) == select('#', ...) then rung[queue] = true end
  end)
  each_thousand(dues, function(queue, ...)
    call('ZADD', SCHEDULED .. queue, ...)
    rung[queue] = true -- so that idle workers learn of the new due time
  end)
  backs, fronts, dues = {}, {}, {}
end

local function finish_call()
  put_in_line()
  for key, row in pairs(sums) do
    for field, n in pairs(row) do
      -- Whoever begins the usage of a day sees to it that it ends; the books do not.
      if call('HINCRBY', key, field, n) == n and string.sub(key, 1, #USAGE) == USAGE then
        call('EXPIRE', key, KEEP_USAGE)
      end
    end
  end
  for queue in pairs(rung) do call('PUBLISH', WAKE, queue) end
end
