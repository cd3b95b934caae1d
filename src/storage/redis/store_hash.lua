-- Stores the fields and values ARGV[2] and on under KEYS[1], in the place of what is no hash, and lets the
-- record expire at the second ARGV[1], or never if that is 0.

local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'hash' and kind ~= 'none' then
    redis.call('DEL', KEYS[1])
end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
if ARGV[1] == '0' then
    redis.call('PERSIST', KEYS[1])
else
    redis.call('EXPIREAT', KEYS[1], ARGV[1])
end
return 1
