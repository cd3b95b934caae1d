-- Compares the fields of the hash KEYS[1] with ARGV[1], which has for each field '-' if it is absent, or '=', its
-- length, ':' and its value. If they differ, returns 0 and changes nothing. Otherwise returns 1 and replaces the fields
-- by ARGV[3], ARGV[4] … (names and values), with ARGV[2] as the time of expiry in seconds or 0 for never. With ARGV[1]
-- alone, deletes the hash.

local got = redis.pcall('HMGET', KEYS[1], 'r_count', 'r_entered', 'r_updated', 'wl_count', 'wl_entered', 'wl_updated')
if got.err then
    return string.find(got.err, 'WRONGTYPE', 1, true) and 0 or got
end
local held = {}
for at = 1, 6 do
    held[at] = got[at] and '=' .. #got[at] .. ':' .. got[at] or '-'
end
if table.concat(held) ~= ARGV[1] then
    return 0
end
if #ARGV == 1 then
    redis.call('DEL', KEYS[1])
    return 1
end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
if ARGV[2] == '0' then
    redis.call('PERSIST', KEYS[1])
else
    redis.call('EXPIREAT', KEYS[1], ARGV[2])
end
return 1
