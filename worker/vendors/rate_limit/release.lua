-- Record that a call has ended, and correct the counts by the vendor's rate-limit headers.
-- KEYS: state, minute, in flight, app state, app minute.
-- ARGV: token, window (s), calls a minute, calls remaining in the minute, the day and the app's minute ('' if not
--   reported), seconds to wait ('' for none), whether the whole app must wait (1 or 0), app calls a minute.
-- If the vendor has counted more calls than we have, the difference is counted as calls made now.
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local state, minute, in_flight, app_state, app_minute = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local token, window, minute_limit = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local minute_remaining, day_remaining, app_remaining = ARGV[4], ARGV[5], ARGV[6]
local wait, blocks_app, app_limit = ARGV[7], ARGV[8] == '1', tonumber(ARGV[9])
redis.call('ZREM', in_flight, token)
redis.call('ZADD', minute, 'XX', now + window, token)
redis.call('ZADD', app_minute, 'XX', now + window, token)
local function add_uncounted_calls(key, limit, remaining)
  local uncounted = math.min(limit - tonumber(remaining), limit) - redis.call('ZCARD', key)
  for number = 1, uncounted do redis.call('ZADD', key, now + window, token .. ':' .. number) end
  redis.call('EXPIRE', key, 600)
end
if minute_remaining ~= '' then add_uncounted_calls(minute, minute_limit, minute_remaining) end
if app_remaining ~= '' and app_limit > 0 then add_uncounted_calls(app_minute, app_limit, app_remaining) end
if day_remaining ~= '' then
  -- Calls in flight may not be in the vendor's count yet.
  local remaining = math.max(tonumber(day_remaining) - redis.call('ZCARD', in_flight), 0)
  local previous = redis.call('HGET', state, 'day_remaining')
  if previous and remaining > tonumber(previous) + 10 then
    redis.call('HSET', state, 'day_used', 0, 'day_ends_at', now + 86400)
  end
  redis.call('HSET', state, 'day_remaining', remaining)
end
if wait ~= '' then
  redis.call('HSET', blocks_app and app_state or state, 'blocked_until', now + tonumber(wait))
  redis.call('EXPIRE', app_state, 604800)
end
return 1
