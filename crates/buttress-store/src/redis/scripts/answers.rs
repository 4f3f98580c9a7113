//! The scripts for answers. Four keys for each scope: a hash of rows, when they were born and expire, their bytes together.
//!
//! A row is when it was born and when it expires, sixteen digits each, `1` if it has a body, and that. The row of the empty key says
//! when the whole scope was forgotten; it is in the hash only.

use super::script;

macro_rules! answer_script {
    ($body:literal) => {
        script!(
            "
local rows, births, ends, bytes = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local key = ARGV[1]
local function read(key)
  local row = redis.call('HGET', rows, key)
  if row then return tonumber(row:sub(1, 16)), tonumber(row:sub(17, 32)), row:sub(33, 33) == '1', row:sub(34) end
end
local function cost(key)
  local length = redis.call('HSTRLEN', rows, key)
  if length == 0 then return 0 end
  return #key + math.max(length - 41, 0) + 128
end
local function put(key, born, expires, rest)
  local before = cost(key)
  redis.call('HSET', rows, key, string.format('%016.0f%016.0f', born, expires) .. rest)
  if key ~= '' then
    redis.call('ZADD', births, born, key)
    redis.call('ZADD', ends, expires, key)
    redis.call('INCRBY', bytes, cost(key) - before)
  end
  for _, name in ipairs(KEYS) do
    local left = redis.call('PTTL', name)
    local wanted = math.ceil((expires - now) / 1000)
    if left ~= -2 and left < wanted then redis.call('PEXPIRE', name, int(wanted)) end
  end
end
local function drop(key)
  redis.call('INCRBY', bytes, -cost(key))
  redis.call('HDEL', rows, key)
  redis.call('ZREM', births, key)
  redis.call('ZREM', ends, key)
end
",
            $body
        )
    };
}

pub(super) const PUT: &str = answer_script!(
    "
local born = math.min(now - ARGV[2], tonumber(ARGV[6]))
local there, expires, has = read(key)
local late = has and there > born + ARGV[5] or there and not has and there >= born
if late and there <= now and expires > now then return {'0'} end
local forgotten = read('')
if forgotten and forgotten <= now and forgotten >= born then return {'0'} end
put(key, born, now + ARGV[3], '1' .. ARGV[4])
return {'1'}
"
);

pub(super) const GET: &str = answer_script!(
    "
local born, expires, has, body = read(key)
local forgotten = read('')
if not has or expires <= now or forgotten and forgotten >= born then return {int(now)} end
return {int(now), int(born), body}
"
);

pub(super) const FORGET: &str = answer_script!(
    "
local at = now - ARGV[2]
local there = read(key)
if there and there > at and (key == '' or there <= now) then return {'0'} end
put(key, at, now + ARGV[3], '0')
return {'1'}
"
);

pub(super) const TRIM: &str = answer_script!(
    "
local left = tonumber(ARGV[2])
local max = left
local most = tonumber(ARGV[1])
local forgotten = read('')
local function sweep(set, score)
  for _, key in ipairs(redis.call('ZRANGEBYSCORE', set, '-inf', int(score), 'LIMIT', 0, int(left))) do
    drop(key)
    left = left - 1
  end
end
sweep(ends, now)
if forgotten then sweep(births, forgotten) end
while left > 0 and tonumber(redis.call('GET', bytes) or 0) > most do
  local oldest = redis.call('ZRANGE', births, 0, 0)[1]
  if not oldest then break end
  drop(oldest)
  left = left - 1
end
return {int(max - left)}
"
);
