//! What the server runs, each as a whole.
//!
//! A server that is full refuses the first command that needs room, and none after one that was carried out: so what needs
//! room comes first. Times are microseconds, which a double holds exactly until 2255; Lua would print them with an exponent, hence `int`.

use redis::Script;

macro_rules! script {
    ($($part:expr),+) => {
        concat!(
            "local t = redis.call('TIME') ",
            "local now = tonumber(t[1]) * 1000000 + tonumber(t[2]) ",
            "local function int(n) return string.format('%.0f', n) end ",
            $($part),+
        )
    };
}

/// What the scripts for claims begin with. Fields: fingerprint, owner, epoch, unfinished, state, lease, expires, body, sum.
macro_rules! claim_script {
    ($($body:literal),+) => {
        script!(
            "
local key = KEYS[1]
local row = redis.call('HMGET', key, 'f', 'o', 'e', 'u', 's', 'l', 'x', 'b', 'c')
local live = row[7] and tonumber(row[7]) > now
local function answer()
  if not live then return {'0', int(now)} end
  return {'0', int(now), row[1], row[2], row[3], row[4], row[5], row[6], row[7], row[8], row[9]}
end
local function expire(at)
  redis.call('HSET', key, 'x', int(at))
  redis.call('PEXPIREAT', key, int(math.ceil(at / 1000)))
end
",
            $($body),+
        )
    };
}

/// The claim that a write is for must be the one that is stored, and neither released nor done.
macro_rules! write_script {
    ($body:literal) => {
        claim_script!(
            "if not live or row[2] ~= ARGV[1] or row[3] ~= ARGV[2] or row[5] ~= '0' then return answer() end ",
            $body,
            " return {'1', int(now)}"
        )
    };
}

const CLAIM: &str = claim_script!(
    "
local function put(epoch, unfinished)
  local lease = now + tonumber(ARGV[3])
  redis.call('HSET', key, 'f', ARGV[1], 'o', ARGV[2], 'e', int(epoch), 'u', int(unfinished), 's', '0', 'l', int(lease))
  redis.call('HDEL', key, 'b', 'c')
  expire(lease + tonumber(ARGV[4]))
  return {'1', int(now), int(epoch), int(unfinished)}
end
if not live then return put(1, 0) end
if row[1] ~= ARGV[1] then return answer() end
if row[5] == '1' then return put(row[3] + 1, row[4]) end
if row[5] ~= '0' then return answer() end
if row[2] == ARGV[2] then return put(row[3], row[4]) end
if tonumber(row[6]) <= now then return put(row[3] + 1, row[4] + 1) end
return answer()
"
);

const RENEW: &str = write_script!(
    "
local lease = now + tonumber(ARGV[3])
redis.call('HSET', key, 'l', int(lease))
expire(lease + tonumber(ARGV[4]))
"
);

const COMPLETE: &str = write_script!(
    "
if ARGV[3] == '2' then
  redis.call('HSET', key, 's', '2', 'b', ARGV[5], 'c', ARGV[6])
else
  redis.call('HSET', key, 's', ARGV[3])
end
redis.call('HDEL', key, 'l')
expire(now + tonumber(ARGV[4]))
"
);

const RELEASE: &str = write_script!(
    "
if row[4] == '0' then
  redis.call('DEL', key)
else
  redis.call('HDEL', key, 'l')
  redis.call('HSET', key, 's', '1')
end
"
);

const LOOK: &str = claim_script!("return answer()");

/// The time, the run's revision and its row; nothing but the time if there is none.
const READ: &str = script!(
    "
local run = redis.call('HMGET', KEYS[1] .. ':run:' .. ARGV[1], 'revision', 'row')
if not run[1] then return {int(now)} end
return {int(now), run[1], run[2]}
"
);

/// The time, the row, the input and all entries.
const LOAD: &str = script!(
    "
local run = redis.call('HMGET', KEYS[1] .. ':run:' .. ARGV[1], 'row', 'input')
if not run[1] then return {int(now)} end
local entries = redis.call('LRANGE', KEYS[1] .. ':entries:' .. ARGV[1], 0, -1)
local answer = {int(now), run[1], run[2] or ''}
for _, entry in ipairs(entries) do answer[#answer + 1] = entry end
return answer
"
);

/// The time, the row, and if the run is over its last entry.
const PEEK: &str = script!(
    "
local row = redis.call('HGET', KEYS[1] .. ':run:' .. ARGV[1], 'row')
if not row then return {int(now)} end
if not redis.call('ZSCORE', KEYS[1] .. ':over', ARGV[1]) then return {int(now), row} end
return {int(now), row, redis.call('LINDEX', KEYS[1] .. ':entries:' .. ARGV[1], -1)}
"
);

/// Writes a run, if nobody has since it was read: identity, expected revision, new one, row, workflow, due, the time since
/// when it is over, parent, place in the list if it is new, input if it is new, entries.
const WRITE: &str = script!(
    "
local p, id = KEYS[1], ARGV[1]
local key = p .. ':run:' .. id
if (redis.call('HGET', key, 'revision') or '') ~= ARGV[2] then return {'0'} end
redis.call('HSET', key, 'revision', ARGV[3], 'row', ARGV[4])
if ARGV[9] ~= '' then
  redis.call('HSET', key, 'place', ARGV[9], 'input', ARGV[10], 'parent', ARGV[8])
  redis.call('ZADD', p .. ':created', 0, ARGV[9])
  if ARGV[8] ~= '' then redis.call('SADD', p .. ':children:' .. ARGV[8], id) end
end
for i = 11, #ARGV do redis.call('RPUSH', p .. ':entries:' .. id, ARGV[i]) end
if ARGV[6] == '' then
  redis.call('ZREM', p .. ':due:' .. ARGV[5], id)
else
  redis.call('ZADD', p .. ':due:' .. ARGV[5], ARGV[6], id)
end
if ARGV[7] ~= '' then
  redis.call('ZADD', p .. ':over', ARGV[7], id)
  if ARGV[8] ~= '' then redis.call('SREM', p .. ':children:' .. ARGV[8], id) end
end
return {'1'}
"
);

/// Some of the runs of a workflow that are due, the longest due first: the time, and for each its revision and its row.
const DUE: &str = script!(
    "
local ids = redis.call('ZRANGEBYSCORE', KEYS[1] .. ':due:' .. ARGV[1], '-inf', int(now), 'LIMIT', ARGV[2], ARGV[3])
local answer = {int(now)}
for _, id in ipairs(ids) do
  local run = redis.call('HMGET', KEYS[1] .. ':run:' .. id, 'revision', 'row')
  answer[#answer + 1] = run[1] or ''
  answer[#answer + 1] = run[2] or ''
end
return answer
"
);

/// Some runs, the youngest first, from a place on: the time, and for each its place and its row.
const LIST: &str = script!(
    "
local places = redis.call('ZREVRANGEBYLEX', KEYS[1] .. ':created', ARGV[1], '-', 'LIMIT', 0, ARGV[2])
local answer = {int(now)}
for _, place in ipairs(places) do
  answer[#answer + 1] = place
  answer[#answer + 1] = redis.call('HGET', KEYS[1] .. ':run:' .. string.sub(place, 18), 'row') or ''
end
return answer
"
);

/// Deletes runs that are over, but for the parents of those that are not.
const PRUNE: &str = script!(
    "
local p, max, left = KEYS[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local pruned, kept = 0, 0
while pruned < max and left > 0 do
  local ids = redis.call('ZRANGEBYSCORE', p .. ':over', '-inf', int(now - ARGV[1]), 'LIMIT', kept, max - pruned)
  if #ids == 0 then break end
  for _, id in ipairs(ids) do
    if left <= 0 then break end
    if redis.call('EXISTS', p .. ':children:' .. id) == 1 then
      kept = kept + 1
    else
      local place = redis.call('HGET', p .. ':run:' .. id, 'place')
      if place then redis.call('ZREM', p .. ':created', place) end
      left = left - redis.call('LLEN', p .. ':entries:' .. id)
      redis.call('UNLINK', p .. ':run:' .. id, p .. ':entries:' .. id)
      redis.call('ZREM', p .. ':over', id)
      pruned = pruned + 1
    end
  end
end
return {int(pruned)}
"
);

/// All scripts, with their hashes.
pub(super) struct Scripts {
    pub(super) claim: Script,
    pub(super) renew: Script,
    pub(super) complete: Script,
    pub(super) release: Script,
    pub(super) look: Script,
    pub(super) read: Script,
    pub(super) load: Script,
    pub(super) peek: Script,
    pub(super) write: Script,
    pub(super) due: Script,
    pub(super) list: Script,
    pub(super) prune: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            claim: Script::new(CLAIM),
            renew: Script::new(RENEW),
            complete: Script::new(COMPLETE),
            release: Script::new(RELEASE),
            look: Script::new(LOOK),
            read: Script::new(READ),
            load: Script::new(LOAD),
            peek: Script::new(PEEK),
            write: Script::new(WRITE),
            due: Script::new(DUE),
            list: Script::new(LIST),
            prune: Script::new(PRUNE),
        }
    }
}
