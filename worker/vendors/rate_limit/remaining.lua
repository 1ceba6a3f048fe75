-- Returns the calls remaining in the minute and in the day (-1: no limit, or unknown).
-- KEYS: state, minute. ARGV: calls a minute, calls a day (0: no limit).
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local state, minute, minute_limit, day_limit = KEYS[1], KEYS[2], tonumber(ARGV[1]), tonumber(ARGV[2])
local minute_remaining = minute_limit - redis.call('ZCOUNT', minute, now, '+inf')
if day_limit == 0 or redis.call('EXISTS', state) == 0 then return {minute_remaining, -1} end
local day_remaining = day_limit - tonumber(redis.call('HGET', state, 'day_used') or '0')
local reported = redis.call('HGET', state, 'day_remaining')
if reported then day_remaining = math.min(day_remaining, tonumber(reported)) end
return {minute_remaining, day_remaining}
