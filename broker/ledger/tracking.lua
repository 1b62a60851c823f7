-- Tracking: a source that asks for it is told when all invocations of an event have ended. Shared by those scripts that
-- take on invocations or see them end.
local OPEN, FAILING, ENDED, TRACKED = 'broker:open:', 'broker:failing:', 'broker:ended:', 'broker:tracked'

local function track(id, queue, source, event)
  if call('HSET', TRACKED, id, queue .. '\n' .. source .. '\n' .. event) == 1 then
    call('HINCRBY', OPEN .. source, event, 1)
  end
end

-- An invocation has ended: its event has when no other of it is left. Whoever ends once more is counted once.
local function untrack(id, source, event, failed)
  if call('HDEL', TRACKED, id) == 0 then return end
  local open, failing = OPEN .. source, FAILING .. source
  if failed then call('HINCRBY', failing, event, 1) end
  if call('HINCRBY', open, event, -1) <= 0 then
    call('RPUSH', ENDED .. source, (call('HGET', failing, event) or '0') .. '\n' .. event)
    call('HDEL', open, event)
    call('HDEL', failing, event)
  end
end
