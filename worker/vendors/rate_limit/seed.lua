-- Start a budget whose state is unknown from the stored API usage. Does nothing if the state exists.
-- KEYS: state, minute. ARGV: calls of this day, seconds since the last call ('' for none), window (s), calls a minute.
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local state, minute = KEYS[1], KEYS[2]
local day_used, seconds_since_call, window, minute_limit = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
if redis.call('EXISTS', state) == 1 then return 0 end
redis.call('HSET', state, 'day_used', day_used, 'day_ends_at', now + 86400)
redis.call('EXPIRE', state, 604800)
-- The number of calls in the current window is unknown, so assume that they were all used.
local window_left = seconds_since_call ~= '' and window - tonumber(seconds_since_call) or 0
if window_left > 0 then
  for number = 1, minute_limit do redis.call('ZADD', minute, now + window_left, 'unknown:' .. number) end
  redis.call('EXPIRE', minute, 600)
end
return 1
