-- Delete a concurrency slot if this holder still has it.
-- KEYS: slot. ARGV: the holder's token.
if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end
