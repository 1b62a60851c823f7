-- Shared by publish and settle: how an invocation is taken on, and who is told when it has ended.
local UNIQUE, DEBOUNCE, SUPERSEDED = 'broker:unique:', 'broker:debounce:', 'broker:superseded:'
local NOTHING = {}

-- Orders: first the lines {queue, description, timeout, keep, max queue} that several share, then the orders themselves.
local function take_lines()
  local lines = {}
  for i = 1, take_number() do
    lines[i] = { queue = take(), description = take(), timeout = take(), keep = take(), max_queue = take_number() }
  end
  return lines
end
local function take_order(lines)
  local order = { line = lines[take_number()], id = take(), data = take() }
  local extra = take()
  order.extra = extra == '' and NOTHING or cjson.decode(extra)
  order.flow = order.extra.flow or NOTHING
  return order
end

-- Look at all that an order of this line may be written to, and count what waits: mostly one look tells that there is
-- nothing, nor anything of the function's in another lane.
local at_rest = {} -- function -> true
local function look_at_line(line)
  if line.waiting then return end
  local queue = line.queue
  local name, scheduled, deferred, wip = function_of(queue), SCHEDULED .. queue, DEFERRED .. queue, WIP .. queue
  local own = QUEUE .. name
  if call('EXISTS', own .. '.high', own, own .. '.low', scheduled, deferred, wip) == 0 then
    at_rest[name] = true
    line.waiting = 0
  else
    line.waiting = look_at_queue(queue) + look_at(queue, SCHEDULED, DEFERRED)
    look_at(queue, WIP)
  end
end

-- The id of the invocation that this one would be a duplicate of, its own or another; nothing when it is new.
local function known_as(order)
  if call('EXISTS', JOB .. order.id) == 1 then return order.id end
  return order.flow.unique and call('GET', UNIQUE .. order.flow.unique)
end

-- Tell those who wait that an invocation has ended for good: `ok` is 1 or 0, `body` JSON.
local function tell(id, ok, body, failed)
  local job = call('HMGET', JOB .. id, 'track', 'event', 'reply', 'turn')
  local source, event, reply, turn = job[1], job[2], job[3], job[4]
  if turn and holder_of(turn) == id then pass_turn(turn) end
  if reply then call('PUBLISH', reply, id .. '\n' .. ok .. '\n' .. (body or 'null')) end
  if source then untrack(id, source, event, failed) end
end

-- Debounce: of those with the same key the last one waits for quiet, and takes the place of the one before it.
local OVERTAKEN = '{"errorType":"Superseded","errorMessage":"a later event of its key came within the debounce"}'
local function supersede(id, now_iso)
  local job = try('HMGET', JOB .. id, 'origin', 'result_ttl', 'attempt')
  local queue, keep = job[1], tonumber(job[2])
  local due = queue and (job[3] or '0') == '0' and call('ZSCORE', SCHEDULED .. queue, id)
  if not due or tonumber(due) <= now then return false end -- it has had its quiet
  call('ZREM', SCHEDULED .. queue, id)
  call('HSET', JOB .. id, 'status', 'canceled', 'ended_at', now_iso, 'reason', 'Superseded')
  tell(id, 0, OVERTAKEN)
  call('EXPIRE', JOB .. id, keep)
  call('ZADD', SUPERSEDED .. queue, now + keep, id)
  call('ZREMRANGEBYSCORE', SUPERSEDED .. queue, '-inf', '(' .. now)
  add(BOOKS .. queue, 'superseded', 1)
  return true
end
-- Returns the id of the one whose place it takes, if there is one.
local function wait_for_quiet(order, now_iso)
  local flow, key = order.flow, DEBOUNCE .. order.flow.debounce
  local first, id = string.match(call('GET', key) or '', '^([^:]+):(.+)$')
  local superseded = id and supersede(id, now_iso) and id
  first = superseded and tonumber(first) or now
  local due = now + math.max(flow.quiet, order.extra.delay or 0)
  -- It may be over already, when `debounce_max` was made shorter meanwhile.
  if flow.longest then due = math.max(now, math.min(due, first + flow.longest)) end
  call('SET', key, string.format('%.3f', first) .. ':' .. order.id, 'PX', math.ceil((due - now) * 1000) + 1)
  call('ZADD', SCHEDULED .. order.line.queue, due, order.id) -- at once: the next of this call may take its place
  rung[order.line.queue] = true
  return superseded
end

-- Hand over: what would wait alone is leased at once to a worker that has an environment with nothing to do, and offered
-- with its last claim to take one more. It is told on a channel of its own: queue, id, execution, time in ms, how many
-- changes to deployed functions there were, when it was accepted, what is seldom (see claim.lua), data; each in a line.
-- Nothing is told that is not leased: others may hear it, too (PSUBSCRIBE, or subscribers of a replica), and whoever was
-- told begins it. What a user without the right to (ACL) publishes is taken on as a whole.
local HANDED = 'broker:handed:'
local MOST_TOLD = 1048576 -- bytes; Redis gives up a subscriber that is behind by 8 MB for long
local nobody = {} -- function -> whether there is no offer any more
local state -- whether workers are suspended, and how many changes there were

-- Whether something of a function waits, in whichever lane: claim knows what is more urgent.
local function waits(name)
  local high, low = name .. '.high', name .. '.low'
  if backs[high] or backs[name] or backs[low] or fronts[high] or fronts[name] or fronts[low] then return true end
  return not at_rest[name] and call('EXISTS', QUEUE .. high, QUEUE .. name, QUEUE .. low) > 0
end
local function listens(worker) return (redis.pcall('PUBSUB', 'NUMSUB', HANDED .. worker)[2] or 0) > 0 end
-- Returns a worker that has a lease and listens, and the execution that it has offered, nobody else's from now on.
local function take_offer(name)
  while not nobody[name] do
    local worker, number = unpack(call('ZPOPMAX', IDLE .. name))
    state = state or worker and call('MGET', 'rq:suspended', 'broker:functions:changes')
    if not worker or state[1] or waits(name) then
      nobody[name] = not worker or state[1]
      if worker then write_offer(name, worker, number) end -- what waits comes before, or nothing may begin
      return
    end
    local ends = call('ZSCORE', WORKERS, worker)
    if ends and tonumber(ends) > now * 1000 and listens(worker) then
      return worker, worker .. '.' .. string.format('%x', number)
    end
  end
end
local function hand_over(order)
  local queue, id, extra, turn = order.line.queue, order.id, order.extra, order.flow.turn
  if backs[queue] or #order.data > MOST_TOLD then return end
  local worker, run = take_offer(function_of(queue))
  if not worker then return end
  local told = extra.track or extra.reply or turn
  local message = { queue, id, run, now_ms, state[2] or 0, now_ms, told and '1 0 0 1' or '', order.data }
  if type(redis.pcall('PUBLISH', HANDED .. worker, table.concat(message, '\n'))) ~= 'number' then return end
  call('ZADD', WIP .. queue, '+inf', id .. ':' .. run)
  if turn then call('HSET', TURNS, turn, queue .. ':' .. id .. ':' .. run) end
  return worker
end

-- Returns the id of the invocation whose place it took, if there was one.
local function accept(order, now_iso)
  local line, key, extra, flow = order.line, JOB .. order.id, order.extra, order.flow
  local delay, status, superseded, begun = extra.delay or 0, 'queued', nil, NOTHING
  -- Whoever is waited for has an attempt of 0, so that claim sees that there is more to it.
  if extra.track then
    call('HSET', key, 'track', extra.track, 'event', extra.event, 'told', 1, 'attempt', 0)
    track(order.id, line.queue, extra.track, extra.event)
  end
  if extra.reply then call('HSET', key, 'reply', extra.reply, 'told', 1, 'attempt', 0) end
  if flow.unique then call('SET', UNIQUE .. flow.unique, order.id, 'PX', flow.unique_ms) end
  if flow.turn then call('HSET', key, 'turn', flow.turn, 'told', 1, 'attempt', 0) end
  if flow.debounce then
    status, superseded = 'scheduled', wait_for_quiet(order, now_iso)
  elseif delay > 0 then
    status = 'scheduled'
    wait_until(line.queue, order.id, now + delay)
  elseif flow.turn and not take_turn(flow.turn, line.queue, order.id) then
    status = 'deferred'
  else
    local worker = hand_over(order)
    if worker then
      status, begun = 'started', { 'worker_name', worker, 'started_at', now_iso, 'attempt', 1 }
    else
      wait_in_queue(line.queue, order.id)
    end
  end
  call('HSET', key, 'status', status, 'origin', line.queue, 'data', order.data, 'description', line.description,
    'created_at', now_iso, 'enqueued_at', now_iso, 'timeout', line.timeout, 'result_ttl', line.keep, 'at', now_ms,
    unpack(begun))
  add(BOOKS .. line.queue, 'accepted', 1)
  return superseded
end
