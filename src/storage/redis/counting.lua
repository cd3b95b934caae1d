-- Functions of the counting scripts of both record forms. Counts are decimal texts of up to 64 bits, because Lua's
-- floating-point numbers cannot hold them.

local LIMIT = '9223372036854775807'

-- Returns the sign and the digits, without leading zeros, of an integer in the syntax of the Python server (int()); nil
-- if the text is not one.
local function integer(text)
    local sign, digits = string.match(text, '^%s*([+-]?)([%d_]+)%s*$')
    if not digits or string.find(digits, '__', 1, true) or string.find(digits, '^_') or string.find(digits, '_$') then
        return nil
    end
    return sign, (string.gsub(string.gsub(digits, '_', ''), '^0+(%d)', '%1'))
end

-- Returns a count plus an amount, at most the limit; nil if the count is damaged.
local function add(text, amount)
    local sign, digits = integer(text)
    if not digits then
        return nil
    end
    if sign == '-' then
        -- Negative counts come only from other programs, and are small.
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

-- Returns the outcome for each key of count(key, amounts).
local function each(count)
    local outcomes = {}
    for at, key in ipairs(KEYS) do
        outcomes[at] = count(key, {ARGV[at * 2 + 1], ARGV[at * 2 + 2]})
    end
    return outcomes
end
