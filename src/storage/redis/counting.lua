-- What the scripts of both forms of record share: counts as decimal texts of up to 64 bits, which the
-- numbers of Lua, floating, cannot hold.

local LIMIT = '9223372036854775807'

-- The sign and the digits, without leading zeros, of a whole number as the established server reads
-- it; nothing if it is none.
local function integer(text)
    local sign, digits = string.match(text, '^%s*([+-]?)([%d_]+)%s*$')
    if not digits or string.find(digits, '__', 1, true) or string.find(digits, '^_') or string.find(digits, '_$') then
        return nil
    end
    return sign, (string.gsub(string.gsub(digits, '_', ''), '^0+(%d)', '%1'))
end

-- A count plus an amount, which stops at the limit; nothing if the count is damaged.
local function add(text, amount)
    local sign, digits = integer(text)
    if not digits then
        return nil
    end
    if sign == '-' then
        -- Only foreign programs store negative counts, and small ones.
        return #digits <= 15 and string.format('%.0f', amount - tonumber(digits)) or nil
    end
    if #digits > #LIMIT then
        return LIMIT
    end
    local low = (tonumber(string.sub(digits, -9)) or 0) + amount
    local high = (tonumber(string.sub(digits, 1, -10)) or 0) + math.floor(low / 1e9)
    low = low % 1e9
    if high > 9223372036 or (high == 9223372036 and low > 854775807) then
        return LIMIT
    end
    return high > 0 and string.format('%.0f%09.0f', high, low) or string.format('%.0f', low)
end

-- What becomes of each key, by a function of the key and its amounts.
local function each(count)
    local outcomes = {}
    for at, key in ipairs(KEYS) do
        outcomes[at] = count(key, {ARGV[at * 2 + 1], ARGV[at * 2 + 2]})
    end
    return outcomes
end
