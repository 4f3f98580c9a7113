//! The scripts for journals. Of each run there is a hash with its fields, a checksum over them, its input and its place among
//! all runs; a list with its entries; and it stands in a sorted set of what is due of its workflow, in one of what is over,
//! and in the set of its parent's children that are not.

use super::script;

/// What the scripts for runs begin with. Answers begin with 0 if nothing was done, 1 if it was, 2 if the run is damaged; then
/// comes the time, then a run if there is one: its identity, and its fields in their order.
macro_rules! run_script {
    ($($body:expr),+) => {
        script!(
            "
local p = KEYS[1]
local names = {'name', 'version', 'fingerprint', 'parent', 'created', 'status', 'reason', 'cancel', 'epoch', 'owner',
  'worker', 'lease', 'due', 'recoveries', 'entries', 'changed'}
local function key(id) return p .. ':run:' .. id end
local function list(id) return p .. ':entries:' .. id end
local function sum(id, run)
  local values = {id}
  for i, name in ipairs(names) do values[i + 1] = run[name] end
  return redis.sha1hex(table.concat(values, '\\0'))
end
local function read(id)
  local values = redis.call('HMGET', key(id), 'sum', unpack(names))
  local run, missing = {}, 0
  for i, name in ipairs(names) do
    run[name] = values[i + 1] or ''
    if not values[i + 1] then missing = missing + 1 end
  end
  if missing == #names and not values[1] then return nil end
  if missing > 0 or sum(id, run) ~= values[1] then return false end
  return run
end
local function write(id, run)
  local values = {}
  for _, name in ipairs(names) do
    values[#values + 1] = name
    values[#values + 1] = run[name]
  end
  redis.call('HSET', key(id), 'sum', sum(id, run), unpack(values))
  local due = p .. ':due:' .. run.name
  if run.due == '' then redis.call('ZREM', due, id) else redis.call('ZADD', due, run.due, id) end
  if tonumber(run.status) >= 4 then
    redis.call('ZADD', p .. ':over', run.changed, id)
    if run.parent ~= '' then redis.call('SREM', p .. ':children:' .. run.parent, id) end
  end
end
local function give(answer, id, run)
  answer[#answer + 1] = id
  for _, name in ipairs(names) do answer[#answer + 1] = run and run[name] or '' end
  return answer
end
local function held(run, owner, epoch) return run.owner == owner and run.epoch == epoch and run.lease ~= '' end
local function open(run, status, due) run.status, run.lease, run.due = status, '', due end
local function close(run, status) run.status, run.lease, run.due = status, '', '' end
",
            $($body),+
        )
    };
}

/// One run, which the script changes or reads: its identity comes first.
macro_rules! one_run_script {
    ($($body:expr),+) => {
        run_script!(
            "
local id = ARGV[1]
local run = read(id)
if run == false then return {'2', int(now)} end
",
            $($body),+
        )
    };
}

/// Lease or nothing, name, version, fingerprint, parent or nothing, owner, worker, input.
pub(super) const CREATE: &str = one_run_script!(
    "
if run then return give({'0', int(now)}, id, run) end
local held = ARGV[2] ~= ''
local lease = held and int(now + ARGV[2]) or ''
local place = string.format('%016.0f:%s', now, id)
redis.call('HSET', key(id), 'place', place, 'input', ARGV[9])
write(id, {name = ARGV[3], version = ARGV[4], fingerprint = ARGV[5], parent = ARGV[6], created = int(now), status = '0',
  reason = '', cancel = '0', epoch = held and '1' or '0', owner = ARGV[7], worker = ARGV[8], lease = lease,
  due = held and lease or int(now), recoveries = '0', entries = '0', changed = int(now)})
redis.call('ZADD', p .. ':created', 0, place)
if ARGV[6] ~= '' then redis.call('SADD', p .. ':children:' .. ARGV[6], id) end
return {'1', int(now)}
"
);

/// Owner, worker, lease, how many at most, one identity or nothing, how many of each workflow to pass over, and at how many to
/// look; then for each workflow its name and its first and last version. Gives whether any is damaged, whether there is more
/// to look at, and the runs.
pub(super) const ACQUIRE: &str = run_script!(
    "
local max, page, due, seen, damaged, more = tonumber(ARGV[4]), tonumber(ARGV[7]), {}, {}, '0', '0'
local function wanted(run)
  if run.due == '' or tonumber(run.due) > now then return false end
  for i = 8, #ARGV, 3 do
    local version = tonumber(run.version)
    if run.name == ARGV[i] and version >= tonumber(ARGV[i + 1]) and version <= tonumber(ARGV[i + 2]) then return true end
  end
  return false
end
local function consider(id)
  if seen[id] then return end
  seen[id] = true
  local run = read(id)
  if run == false then
    damaged = '1'
  elseif run and wanted(run) then
    due[#due + 1] = {id = id, run = run, at = tonumber(run.due)}
  end
end
if ARGV[5] ~= '' then
  consider(ARGV[5])
else
  for i = 8, #ARGV, 3 do
    local before = #due
    local ids = redis.call('ZRANGEBYSCORE', p .. ':due:' .. ARGV[i], '-inf', int(now), 'LIMIT', ARGV[6], page)
    for _, id in ipairs(ids) do
      if #due - before >= max then break end
      consider(id)
    end
    if #ids == page then more = '1' end
  end
end
table.sort(due, function(a, b) if a.at ~= b.at then return a.at < b.at end return a.id < b.id end)
local answer = {damaged, int(now), more}
for i = 1, math.min(max, #due) do
  local id, run = due[i].id, due[i].run
  if run.lease ~= '' then run.recoveries = int(run.recoveries + 1) end
  run.status, run.epoch, run.owner, run.worker, run.changed = '0', int(run.epoch + 1), ARGV[1], ARGV[2], int(now)
  run.lease = int(now + ARGV[3])
  run.due = run.lease
  write(id, run)
  give(answer, id, run)
end
return answer
"
);

/// Owner, epoch, sequence number, what becomes of the run, the reason, for how long or until when it sleeps, and the entries.
/// Gives whether it is to be cancelled; or the run, and its entries from that number on if it may have been done already.
pub(super) const APPEND: &str = one_run_script!(
    "
if not run then return {'0', int(now)} end
local added, next = #ARGV - 7, tonumber(ARGV[5])
if not held(run, ARGV[2], ARGV[3]) or run.entries ~= ARGV[4] then
  local answer = give({'0', int(now)}, id, run)
  if run.entries == int(ARGV[4] + added) then
    for _, entry in ipairs(redis.call('LRANGE', list(id), ARGV[4], -1)) do answer[#answer + 1] = entry end
  end
  return answer
end
",
    "
local at = string.format('%016.0f%02.0f', now, now % 97)
for i = 8, #ARGV do redis.call('RPUSH', list(id), at .. ARGV[i]) end
run.entries = int(run.entries + added)
if added > 0 then run.recoveries = '0' end
if added > 0 or next > 0 then run.changed = int(now) end
local cancel = run.cancel == '1'
if next == 1 or (next == 2 or next == 3) and cancel then
  open(run, '0', int(now))
elseif next == 2 then
  open(run, '1', int(now + ARGV[7]))
elseif next == 3 then
  open(run, '1', ARGV[7])
elseif next > 3 then
  if next < 6 then run.reason = ARGV[6] end
  close(run, int(next - 2))
end
write(id, run)
return {'1', int(now), run.cancel}
"
);

/// Owner, epoch, lease. Gives whether it is to be cancelled.
pub(super) const RENEW: &str = one_run_script!(
    "
if not run or not held(run, ARGV[2], ARGV[3]) then return {'0', int(now)} end
run.lease = int(now + ARGV[4])
run.due = run.lease
write(id, run)
return {'1', int(now), run.cancel}
"
);

/// Whether to resume it (0), to cancel it (1) or to abandon it (2). Gives the run as it is afterwards.
pub(super) const CONTROL: &str = one_run_script!(
    "
if not run then return {'0', int(now)} end
local halted = run.status == '2' or run.status == '3'
local changes = tonumber(run.status) < 4 and (ARGV[2] ~= '0' or halted or run.status == '1')
if changes then
  if ARGV[2] ~= '0' then run.cancel = '1' end
  if ARGV[2] == '2' then
    run.reason = ''
    close(run, '6')
  else
    if halted then run.recoveries, run.reason = '0', '' end
    if run.lease == '' then open(run, '0', int(now)) end
  end
  run.changed = int(now)
  write(id, run)
end
return give({'1', int(now)}, id, run)
"
);

/// Gives the run, its input and its entries.
pub(super) const LOAD: &str = one_run_script!(
    "
if not run then return {'0', int(now)} end
local answer = give({'1', int(now)}, id, run)
answer[#answer + 1] = redis.call('HGET', key(id), 'input') or ''
for _, entry in ipairs(redis.call('LRANGE', list(id), 0, -1)) do answer[#answer + 1] = entry end
return answer
"
);

/// Gives the run, and its last entry if it is over.
pub(super) const PEEK: &str = one_run_script!(
    "
if not run then return {'0', int(now)} end
local answer = give({'1', int(now)}, id, run)
if tonumber(run.status) >= 4 then answer[#answer + 1] = redis.call('LINDEX', list(id), -1) end
return answer
"
);

/// From which place on, and how many. Gives for each its place and the run, with empty fields if that is damaged.
pub(super) const LIST: &str = run_script!(
    "
local places = redis.call('ZREVRANGEBYLEX', p .. ':created', ARGV[1], '-', 'LIMIT', 0, ARGV[2])
local answer = {'1', int(now)}
for _, place in ipairs(places) do
  local id = string.sub(place, 18)
  answer[#answer + 1] = place
  give(answer, id, read(id))
end
return answer
"
);

/// For how long they have been over, how many at most, and after how many entries to stop. Deletes runs that are over, but for
/// the parents of those that are not.
pub(super) const PRUNE: &str = script!(
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
