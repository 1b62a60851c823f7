-- Dependents: jobs of RQ that were enqueued with `depends_on` an invocation go to their queues when it has ended, as RQ
-- has it: after success, and after failure where they allow it. Part of settle; RQ's keys are its own.
local function dependents_of(id) return JOB .. id .. ':dependents' end

local function may_run(id, allows_failure)
  for _, dependency in ipairs(call('SMEMBERS', 'rq:job::' .. id .. ':dependencies')) do
    local status = status_of(dependency)
    if status and status ~= 'finished' and not (status == 'failed' and allows_failure) then return false end
  end
  return true
end

local function enqueue_dependent(id, now_iso)
  local key = JOB .. id
  local job = try('HMGET', key, 'status', 'origin', 'allow_dependency_failures', 'enqueue_at_front', 'rate_limit_key', 'ttl')
  local origin = job[2]
  if not origin or job[1] ~= 'deferred' then return true end
  if not may_run(id, job[3] == '1') then return false end
  call('ZREM', 'rq:deferred:' .. origin, id)
  if job[5] then -- RQ puts it in line with the others of its rate limit, when it next looks after this queue
    call('HSET', key, 'status', 'ready_to_enqueue')
    call('ZADD', 'rq:ready:' .. origin, now, id)
    return true
  end
  call('HSET', key, 'status', 'queued', 'enqueued_at', now_iso)
  if tonumber(job[6]) then call('EXPIRE', key, job[6]) end
  call('SADD', 'rq:queues', QUEUE .. origin)
  call(job[4] == '1' and 'LPUSH' or 'RPUSH', QUEUE .. origin, id)
  return true
end

-- Of all that ended in this call, given as keys of their dependents: most have none, and are asked after in one command.
local function enqueue_dependents(keys, now_iso)
  for first = 1, #keys, 1000 do
    local last = math.min(first + 999, #keys)
    if call('EXISTS', unpack(keys, first, last)) > 0 then
      for i = first, last do
        for _, id in ipairs(call('SMEMBERS', keys[i])) do
          if enqueue_dependent(id, now_iso) then call('SREM', keys[i], id) end
        end
        local kept = call('TTL', string.sub(keys[i], 1, -#':dependents' - 1))
        if kept > 0 then call('EXPIRE', keys[i], kept) end -- those left wait for others as well
      end
    end
  end
end

