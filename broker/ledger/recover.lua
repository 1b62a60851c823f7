-- recover: renew a worker's lease, and take back what dead workers held.
-- ARGV: now (ISO 8601), worker ('' to renew none), lease in ms, m, then m workers known to be dead (their host says so).
-- Passes on the turns of those that ended without the ledger's knowing, and tells the sources of their events.
-- Answers the recovered, {queue, id, crashes}, which are at the front of their queues again; the workers that hold a lease
-- or held one; and whether `rq suspend` is in force (0/1).
-- A first crash counts whoever held the invocation; later ones count only for an execution marked as running, so that
-- an invocation that merely waited in a dead worker's hands does not become a poison pill.
-- A lease says something only about a worker that could have renewed it. When nobody has renewed one for half its length,
-- Redis was away, or its clock was put ahead: all get another. One that ends later than a lease can is of before the clock
-- was put back.
local now_iso, worker, lease = take(), take(), take_number()
run_when_full()
if worker ~= '' then
  local ends = string.format('%.0f', now * 1000 + lease)
  if lease > 0 then
    local last = tonumber(call('ZRANGE', WORKERS, -1, -1, 'WITHSCORES')[2])
    if last and last < now * 1000 + lease / 2 then
      for _, name in ipairs(call('ZRANGE', WORKERS, 0, -1)) do call('ZADD', WORKERS, ends, name) end
    elseif last and last > now * 1000 + lease then
      for _, name in ipairs(call('ZRANGEBYSCORE', WORKERS, '(' .. ends, '+inf')) do call('ZADD', WORKERS, ends, name) end
    end
  end
  call('ZADD', WORKERS, ends, worker)
end

local dead = {}
local any = false
for _ = 1, take_number() do
  dead[take()] = true
  any = true
end
for _, name in ipairs(call('ZRANGEBYSCORE', WORKERS, '-inf', '(' .. now_ms)) do
  dead[name] = true
  any = true
end

local recovered = {}
local function take_back(queue, member)
  local id, execution = string.match(member, '^([^:]+):(.+)$')
  if call('ZREM', WIP .. queue, member) == 0 then return end
  local job = try('HMGET', JOB .. id, 'status', 'crashes', 'running')
  if job[1] ~= 'started' then
    if not job[1] then add(BOOKS .. queue, 'vanished', 1) end
    return
  end
  local crashes = tonumber(job[2]) or 0
  if crashes == 0 or job[3] == execution then crashes = crashes + 1 end
  call('HSET', JOB .. id, 'status', 'queued', 'crashes', crashes)
  wait_in_queue(queue, id, true)
  recovered[#recovered + 1] = { queue, id, crashes }
end

local lost = {} -- queue -> the leases that are to be taken back
local function look_through(queue)
  -- A stock RQ worker leases each execution on its own.
  local members = call('ZRANGEBYSCORE', WIP .. queue, '-inf', now)
  if any then
    for _, member in ipairs(call('ZRANGE', WIP .. queue, 0, -1)) do
      local name = string.match(member, '^[^:]+:(.+)%.%x+$')
      if name and dead[name] then members[#members + 1] = member end
    end
  end
  if members[1] then
    look_at_queue(queue)
    lost[queue] = members
  end
end

for _, key in ipairs(call('SMEMBERS', 'rq:queues')) do
  local queue = string.sub(key, #QUEUE + 1)
  -- A queue without books is another program's: what RQ abandons there, RQ retries or fails.
  if call('EXISTS', BOOKS .. queue) == 1 then look_through(queue) end
end
for queue, members in pairs(lost) do
  for _, member in ipairs(members) do take_back(queue, member) end
end
put_in_line()
for name in pairs(dead) do call('ZREM', WORKERS, name) end

-- Another tool may have cancelled or deleted who holds a turn, or whose event is tracked. Some are looked at in each
-- call, one after another.
local SOME = 200
local function each_of_some(key, cursor, act)
  if call('EXISTS', key) == 0 then return end
  local page = call('HSCAN', key, call('GET', cursor) or '0', 'COUNT', SOME)
  call('SET', cursor, page[1])
  for i = 1, #page[2], 2 do act(page[2][i], page[2][i + 1]) end
end

-- A cancelled attempt goes on until it ends.
local WAITS_OR_RUNS = { queued = true, scheduled = true, started = true }
local function has_ended(holder)
  local queue, id, run = string.match(holder, '^([^:]+):([^:]+):?(.*)$')
  if WAITS_OR_RUNS[status_of(id)] then return false end
  return run == '' or not call('ZSCORE', WIP .. queue, id .. ':' .. run)
end
each_of_some(TURNS, 'broker:turns:cursor', function(turn, holder)
  if has_ended(holder) then pass_turn(turn) end
end)

local function is_lost(id, queue)
  local status = status_of(id)
  if status and status ~= 'canceled' then return false end
  for _, member in ipairs(call('ZRANGE', WIP .. queue, 0, -1)) do
    if string.sub(member, 1, #id + 1) == id .. ':' then return false end
  end
  return true
end
each_of_some(TRACKED, 'broker:tracked:cursor', function(id, whose)
  local queue, source, event = string.match(whose, '^([^\n]*)\n([^\n]*)\n(.*)$')
  if is_lost(id, queue) then untrack(id, source, event, true) end -- it was not done, so its event has failed
end)
finish_call()
return { recovered, call('ZRANGE', WORKERS, 0, -1), call('EXISTS', 'rq:suspended') }
