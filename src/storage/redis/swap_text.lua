-- Compares the text under KEYS[1] with ARGV[1]; an absent key counts as an empty text. If they differ, returns 0 and
-- changes nothing. Otherwise returns 1 and replaces the text by ARGV[3], with ARGV[2] as the time of expiry in seconds
-- or 0 for never. With ARGV[1] alone, deletes the key.

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
