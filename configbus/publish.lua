-- Puts one release, or a whole state, into Redis and announces it: all of it or nothing.
--
-- KEYS: head, index, then one key per block.
-- ARGV: mode, expected head, channel, message, number of head fields, head fields..., then per block: its
--       name, its index entry, the number of its fields and values, and these.
-- mode 'next': the head must be the release before (ARGV[2] is "bus:epoch:revision:state", and ":signed" behind it
--              where the head is to have a signature).
-- mode 'full': the head must be as it was judged (ARGV[2] is the very thing that was read, field by field);
--              keys are then laid down anew, index included.
-- mode 'index': the same; a block that comes without fields has the right ones and keeps them.
-- mode 'repair': these blocks alone are laid down anew; whatever else there is stays.
-- KEYS beyond the blocks are deleted.
-- Answers the word for what happened and the head as it was found, all as text.

local function hash_or_nothing(key)
    local kind = redis.call('TYPE', key)
    kind = kind.ok or kind
    return kind == 'hash' or kind == 'none'
end

local fields = {'bus', 'v', 'system', 'epoch', 'revision', 'state', 'check', 'signature'}
local found = {}
if hash_or_nothing(KEYS[1]) then
    local values = redis.call('HMGET', KEYS[1], unpack(fields))
    for i = 1, #fields do
        found[i] = values[i] or ''
    end
else
    found[1] = 'not a hash'
end
local mode = ARGV[1]
local seen
if mode == 'next' then
    seen = table.concat({found[1] or '', found[4] or '', found[5] or '', found[6] or ''}, ':')
    if (found[8] or '') ~= '' then
        seen = seen .. ':signed'
    end
    for i = 1, #KEYS do
        if not hash_or_nothing(KEYS[i]) then
            return {'damaged', unpack(found)}
        end
    end
    -- An index that is gone would come back with these blocks alone, and hide that the others are missing.
    local released = found[5] ~= nil and found[5] ~= '' and found[5] ~= '0'
    if released and redis.call('EXISTS', KEYS[2]) == 0 then
        return {'damaged', unpack(found)}
    end
else
    seen = table.concat(found, '\n')
end
if seen ~= ARGV[2] then
    return {'not yet', unpack(found)}
end

local blocks = {}
local at = 6 + tonumber(ARGV[5])
local key = 3
while at <= #ARGV do
    local count = tonumber(ARGV[at + 2])
    blocks[#blocks + 1] = {key = KEYS[key], name = ARGV[at], mark = ARGV[at + 1], first = at + 3, last = at + 2 + count}
    at = at + 3 + count
    key = key + 1
end

if mode == 'full' or mode == 'index' then
    redis.call('DEL', KEYS[1], KEYS[2])
end
for i = key, #KEYS do
    redis.call('DEL', KEYS[i])
end
for _, block in ipairs(blocks) do
    if block.first <= block.last then
        redis.call('DEL', block.key)
    end
    for from = block.first, block.last, 1000 do
        redis.call('HSET', block.key, unpack(ARGV, from, math.min(from + 999, block.last)))
    end
    redis.call('HSET', KEYS[2], block.name, block.mark)
end
redis.call('HSET', KEYS[1], unpack(ARGV, 6, 5 + tonumber(ARGV[5])))
redis.call('PUBLISH', ARGV[3], ARGV[4])
return {'published', unpack(found)}
