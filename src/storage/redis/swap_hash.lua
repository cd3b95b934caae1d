-- Replaces what is stored under KEYS[1] by the fields and values ARGV[3] and on, which expire at the second
-- ARGV[2], or never if that is 0; without them it is deleted. Returns 1; or 0, and changes nothing, if the
-- fields are not what ARGV[1] says: for each '-' if it is not there, or '=', its length, ':' and its value.

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
