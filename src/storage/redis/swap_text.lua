-- Replaces the text ARGV[1] under KEYS[1] by the text ARGV[3], which expires at the second ARGV[2], or never if
-- that is 0; without them it is deleted. No text counts as an empty one. Returns 1; or 0, and changes nothing,
-- if another text is there.

local got = redis.pcall('GET', KEYS[1])
if type(got) == 'table' then
    return string.find(got.err, 'WRONGTYPE', 1, true) and 0 or got
end
if (got or '') ~= ARGV[1] then
    return 0
end
if #ARGV == 1 then
    redis.call('DEL', KEYS[1])
    return 1
end
redis.call('SET', KEYS[1], ARGV[3])
if ARGV[2] ~= '0' then
    redis.call('EXPIREAT', KEYS[1], ARGV[2])
end
return 1
