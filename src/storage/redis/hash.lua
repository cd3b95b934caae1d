-- Counts ARGV[2n + 1] reports and ARGV[2n + 2] whitelistings in the hash under each KEYS[n]. ARGV[1] is the current
-- time in seconds; ARGV[2] the seconds after which the records expire, or 0 for never. Returns for each key 1 if it was
-- counted, 0 if a field is damaged, or the server's error; in the latter cases the record is unchanged.

local now, age = ARGV[1], ARGV[2]
local renewal = age == '0' and {'PERSIST', 'pyzord.probe'} or {'EXPIRE', 'pyzord.probe', age}
-- The renewal follows the write, so a refusal would come too late: check the permission first. Redis before 7 has no
-- acl_check_cmd.
if redis.acl_check_cmd and not redis.acl_check_cmd(unpack(renewal)) then
    return redis.error_reply('NOPERM ' .. renewal[1] .. ' is refused by the server')
end

local function count(key, amounts)
    local got = redis.pcall('HMGET', key, 'r_count', 'r_entered', 'r_updated', 'wl_count', 'wl_entered', 'wl_updated')
    if got.err then
        return string.find(got.err, 'WRONGTYPE', 1, true) and 0 or got
    end
    for at = 1, 6 do
        got[at] = got[at] or '0'
    end
    -- Fast path: fields as servers write them, and exact as Lua numbers. One pattern for all fields, because one for
    -- each costs more than the rest of the script.
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
        local amount = tonumber(amounts[tally])
        if amount > 0 then
            local sum = got[tally * 3 - 2]
            sum = plain and string.format('%.0f', sum + amount) or add(sum, amount)
            if not sum then
                return 0
            end
            change[#change + 1] = name .. '_count'
            change[#change + 1] = sum
            local entered = got[tally * 3 - 1]
            if not plain then
                entered = select(2, integer(entered))
            end
            if entered == '0' or plain and tonumber(entered) == 0 then
                change[#change + 1] = name .. '_entered'
                change[#change + 1] = now
            end
            change[#change + 1] = name .. '_updated'
            change[#change + 1] = now
        end
    end
    -- This write comes first, because it is the only one that a full server may refuse: once it has succeeded, later
    -- writes of the script are accepted.
    local written = redis.pcall('HSET', key, unpack(change))
    if type(written) == 'number' then
        renewal[2] = key
        written = redis.pcall(unpack(renewal))
    end
    return type(written) == 'table' and written or 1
end

return each(count)
