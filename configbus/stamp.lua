-- Says how fresh the head is: ARGV[1] is Redis' clock before Postgres was read, in microseconds.
--
-- KEYS: head. ARGV: stamp, bus, epoch, revision, state (as read from Postgres), channel, bookmark and, where signing is
-- on, the stamp's signature.
-- The stamp is stored only if the head is of the epoch that was read, not behind what was read, and at the same
-- revision of the same state. Answers 'stamped', or why not.

local kind = redis.call('TYPE', KEYS[1])
if (kind.ok or kind) ~= 'hash' then
    return 'no head'
end
local head = redis.call('HMGET', KEYS[1], 'bus', 'epoch', 'revision', 'state')
local revision, read = tonumber(head[3] or ''), tonumber(ARGV[4])
if head[1] ~= ARGV[2] or head[2] ~= ARGV[3] or revision == nil then
    return 'another history'
end
if revision < read then
    return 'behind'
end
if revision == read then
    if head[4] ~= ARGV[5] then
        return 'another state'
    end
    redis.call('PUBLISH', ARGV[6], ARGV[7])
end
redis.call('HSET', KEYS[1], 'asof', ARGV[1])
if ARGV[8] then
    redis.call('HSET', KEYS[1], 'asof_of', ARGV[4] .. ':' .. ARGV[5], 'asof_signature', ARGV[8])
end
return 'stamped'
