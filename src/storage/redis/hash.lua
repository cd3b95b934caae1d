-- Counts reports (ARGV[1]) and whitelistings (ARGV[2]) of the digest under KEYS[1] at the second ARGV[3],
-- and lets the record expire after ARGV[4] seconds, or never if that is 0. Returns 1; or 0, and changes
-- nothing, if any field is damaged.

local got = redis.pcall('HMGET', KEYS[1], 'r_count', 'r_entered', 'r_updated', 'wl_count', 'wl_entered', 'wl_updated')
if got.err then
    return string.find(got.err, 'WRONGTYPE', 1, true) and 0 or got
end
for at = 1, 6 do
    got[at] = got[at] or '0'
end
-- As servers write them, and exact as numbers of Lua; asked at once, since a pattern for each costs more than
-- all the rest.
local plain = #got[1] < 15 and #got[4] < 15 and string.find(table.concat(got, ' '), '^%d+ %d+ %d+ %d+ %d+ %d+$')
if not plain then
    for at = 1, 6 do
        if not integer(got[at]) then
            return 0
        end
    end
end

local change = {}
for tally, name in ipairs({'r', 'wl'}) do
    local amount = tonumber(ARGV[tally])
    if amount > 0 then
        local count = got[tally * 3 - 2]
        count = plain and string.format('%.0f', count + amount) or add(count, amount)
        if not count then
            return 0
        end
        change[#change + 1] = name .. '_count'
        change[#change + 1] = count
        local entered = got[tally * 3 - 1]
        if not plain then
            entered = select(2, integer(entered))
        end
        if entered == '0' or plain and tonumber(entered) == 0 then
            change[#change + 1] = name .. '_entered'
            change[#change + 1] = ARGV[3]
        end
        change[#change + 1] = name .. '_updated'
        change[#change + 1] = ARGV[3]
    end
end
redis.call('HSET', KEYS[1], unpack(change))
if ARGV[4] == '0' then
    redis.call('PERSIST', KEYS[1])
else
    redis.call('EXPIRE', KEYS[1], ARGV[4])
end
return 1
