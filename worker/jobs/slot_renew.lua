-- Keep a concurrency slot if this holder still has it; return whether it has.
-- KEYS: slot. ARGV: the holder's token, seconds.
if redis.call('get', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('expire', KEYS[1], ARGV[2])
