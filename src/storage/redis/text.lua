-- Counts ARGV[2n + 1] reports and ARGV[2n + 2] whitelistings in the text under each KEYS[n]. ARGV[1] is the current
-- local date; ARGV[2] the seconds after which the records expire, or 0 for never. Returns for each key 1 if it was
-- counted, 0 if a field is damaged, or the server's error; in the latter cases the record is unchanged.

local now, age = ARGV[1], ARGV[2]

local function count(key, amounts)
    local text = redis.pcall('GET', key)
    if type(text) == 'table' then
        return string.find(text.err, 'WRONGTYPE', 1, true) and 0 or text
    end
    local fields = {}
    for field in string.gmatch((text or '0,,,0,,') .. ',', '([^,]*),') do
        fields[#fields + 1] = field
    end
    if #fields < 6 then
        return 0
    end
    for tally = 0, 1 do
        if not integer(fields[tally * 3 + 1]) then
            return 0
        end
        for at = tally * 3 + 2, tally * 3 + 3 do
            if fields[at] ~= '' and not string.find(fields[at], '^%d%d%d%d%-%d%d?%-%d%d? %d%d?:%d%d?:%d%d?$') then
                return 0
            end
        end
    end

    for tally = 0, 1 do
        local amount = tonumber(amounts[tally + 1])
        if amount > 0 then
            local sum = add(fields[tally * 3 + 1], amount)
            if not sum then
                return 0
            end
            fields[tally * 3 + 1] = sum
            if fields[tally * 3 + 2] == '' then
                fields[tally * 3 + 2] = now
            end
            fields[tally * 3 + 3] = now
        end
    end
    local change = {'SET', key, table.concat(fields, ',', 1, 6)}
    if age ~= '0' then
        change[4], change[5] = 'EX', age
    end
    local written = redis.pcall(unpack(change))
    return written.err and written or 1
end

return each(count)
