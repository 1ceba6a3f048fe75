-- Count calls that have already been answered.
-- KEYS: state, minute. ARGV: token, window (s), number of calls.
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local minute, token, window, calls = KEYS[2], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
for number = 1, calls do redis.call('ZADD', minute, now + window, token .. ':' .. number) end
redis.call('EXPIRE', minute, 600)
return 1
