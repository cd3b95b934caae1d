-- Counts reports (ARGV[1]) and whitelistings (ARGV[2]) of the digest under KEYS[1] at the local date ARGV[3],
-- and lets the record expire after ARGV[4] seconds, or never if that is 0. Returns 1; or 0, and changes
-- nothing, if any field is damaged.

local text = redis.pcall('GET', KEYS[1])
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
    local amount = tonumber(ARGV[tally + 1])
    if amount > 0 then
        local count = add(fields[tally * 3 + 1], amount)
        if not count then
            return 0
        end
        fields[tally * 3 + 1] = count
        if fields[tally * 3 + 2] == '' then
            fields[tally * 3 + 2] = ARGV[3]
        end
        fields[tally * 3 + 3] = ARGV[3]
    end
end
local changed = table.concat(fields, ',', 1, 6)
if ARGV[4] == '0' then
    redis.call('SET', KEYS[1], changed)
else
    redis.call('SET', KEYS[1], changed, 'EX', ARGV[4])
end
return 1
