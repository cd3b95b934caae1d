-- Stores the text ARGV[2] under KEYS[1], and lets it expire at the second ARGV[1], or never if that is 0.

redis.call('SET', KEYS[1], ARGV[2])
if ARGV[1] ~= '0' then
    redis.call('EXPIREAT', KEYS[1], ARGV[1])
end
return 1
