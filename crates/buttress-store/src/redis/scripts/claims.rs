//! The scripts for claims, one hash each.

use super::script;

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
local function put(expires, ...)
  redis.call('HSET', key, 'x', int(expires), ...)
  redis.call('PEXPIREAT', key, int(math.ceil(expires / 1000)))
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

pub(super) const CLAIM: &str = claim_script!(
    "
local function own(epoch, unfinished)
  local lease = now + ARGV[3]
  put(lease + ARGV[4], 'f', ARGV[1], 'o', ARGV[2], 'e', int(epoch), 'u', int(unfinished), 's', '0', 'l', int(lease))
  if row[8] then redis.call('HDEL', key, 'b', 'c') end
  return {'1', int(now), int(epoch), int(unfinished)}
end
if not live then return own(1, 0) end
if row[1] ~= ARGV[1] then return answer() end
if row[5] == '1' then return own(row[3] + 1, row[4]) end
if row[5] ~= '0' then return answer() end
if row[2] == ARGV[2] then return own(row[3], row[4]) end
if tonumber(row[6]) <= now then return own(row[3] + 1, row[4] + 1) end
return answer()
"
);

pub(super) const RENEW: &str = write_script!(
    "
local lease = now + ARGV[3]
put(lease + ARGV[4], 'l', int(lease))
"
);

pub(super) const COMPLETE: &str = write_script!(
    "
if ARGV[3] == '2' then
  put(now + ARGV[4], 's', '2', 'b', ARGV[5], 'c', ARGV[6])
else
  put(now + ARGV[4], 's', ARGV[3])
end
redis.call('HDEL', key, 'l')
"
);

pub(super) const RELEASE: &str = write_script!(
    "
if row[4] == '0' then
  redis.call('DEL', key)
else
  redis.call('HDEL', key, 'l')
  redis.call('HSET', key, 's', '1')
end
"
);

pub(super) const LOOK: &str = claim_script!("return answer()");
