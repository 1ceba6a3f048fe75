-- Returns the seconds by which the next call should be delayed, so that more events share it.
-- KEYS: state, minute. ARGV: calls a minute, window (s).
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local state, minute, limit, window = KEYS[1], KEYS[2], tonumber(ARGV[1]), tonumber(ARGV[2])
local remaining = limit - redis.call('ZCOUNT', minute, now, '+inf')
if remaining * 2 >= limit then return '0' end
local gap = 2 * window / limit * (1 - 2 * remaining / limit)
local last_call_at = tonumber(redis.call('HGET', state, 'last_call_at') or '0')
return tostring(math.max(last_call_at + gap - now, 0))
