-- Count one call that is about to be sent.
-- KEYS: state, minute, in flight, app state, app minute.
-- ARGV: token, window (s), reserved share, calls a minute, concurrent calls (0: no limit), calls a day (0: no limit),
--   app calls a minute (0: no app limit), whether a probe is allowed (1 or 0), maximum duration of a call (s),
--   time between probes (s), reserved share of the app's minute.
-- Returns {1} if the call is allowed, {0, wait (s), reason} if not, and {-1} if this budget's state is unknown.
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local state, minute, in_flight, app_state, app_minute = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local token, window, reserved_share = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local minute_limit, concurrent_limit, day_limit = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local app_limit, may_probe, max_duration, probe_interval = tonumber(ARGV[7]), ARGV[8] == '1', tonumber(ARGV[9]), tonumber(ARGV[10])
if redis.call('EXISTS', state) == 0 then return {-1} end

local function field(name) return tonumber(redis.call('HGET', state, name) or '0') end
local function reserved(limit, share) return math.min(math.ceil(limit * share), limit - 1) end
-- Seconds until the window has room for another call; nil if it has room now.
local function wait_for_room(key, limit, share)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  local allowed = limit - reserved(limit, share)
  local used = redis.call('ZCARD', key)
  if used < allowed then return nil end
  local expiring = redis.call('ZRANGE', key, used - allowed, used - allowed, 'WITHSCORES')
  return math.max(math.min(tonumber(expiring[2]) - now, window), 0.05)
end

local blocked_until = math.max(field('blocked_until'), tonumber(redis.call('HGET', app_state, 'blocked_until') or '0'))
if blocked_until > now then return {0, tostring(blocked_until - now), 'Retry-After'} end
local wait = wait_for_room(minute, minute_limit, reserved_share)
if wait then return {0, tostring(wait), 'minute'} end
if app_limit > 0 then
  wait = wait_for_room(app_minute, app_limit, tonumber(ARGV[11]))
  if wait then return {0, tostring(wait), 'app minute'} end
end
if concurrent_limit > 0 then
  redis.call('ZREMRANGEBYSCORE', in_flight, '-inf', now)
  -- The last slot is reserved for events.
  if redis.call('ZCARD', in_flight) >= concurrent_limit - (reserved_share > 0 and concurrent_limit > 1 and 1 or 0) then
    return {0, '0', 'concurrency'}
  end
end
if day_limit > 0 then
  if now >= field('day_ends_at') then
    redis.call('HSET', state, 'day_used', 0, 'day_ends_at', now + 86400)
    redis.call('HDEL', state, 'day_remaining')
  end
  local remaining = day_limit - field('day_used')
  local reported = redis.call('HGET', state, 'day_remaining')
  if reported then remaining = math.min(remaining, tonumber(reported)) end
  if remaining <= reserved(day_limit, reserved_share) then
    if not may_probe or now < field('next_probe_at') then return {0, tostring(probe_interval), 'day'} end
    redis.call('HSET', state, 'next_probe_at', now + probe_interval)
  end
  redis.call('HINCRBY', state, 'day_used', 1)
  if reported then redis.call('HINCRBY', state, 'day_remaining', -1) end
end
redis.call('ZADD', minute, now + max_duration, token)
redis.call('HSET', state, 'last_call_at', tostring(now))
if concurrent_limit > 0 then redis.call('ZADD', in_flight, now + max_duration, token) end
if app_limit > 0 then redis.call('ZADD', app_minute, now + max_duration, token) end
for _, key in ipairs({minute, in_flight, app_minute}) do redis.call('EXPIRE', key, 600) end
redis.call('EXPIRE', state, 604800)
return {1}
