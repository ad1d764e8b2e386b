-- Takes quota for one call or a lease of calls from every bucket of its path, or from none (health-monitor.md §4.7).
--
-- KEYS: 1 route version, 2 provider's meta hash, 3 workers zset; then per bucket: state hash, wants hash, held hash.
-- ARGV: the names below; then per bucket the number of its windows and per window nine fields (see `window`).
-- All times are microseconds of this server's clock. Returns see the end.
local worker, rank, cost, want = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local back, back_at, retry, hello = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8]
local claim, lease_us, reserve = ARGV[9], tonumber(ARGV[10]), tonumber(ARGV[11])
local need, buckets = tonumber(ARGV[13]), tonumber(ARGV[14])
local now
if ARGV[12] == '' then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
else
  now = tonumber(ARGV[12])  -- only tests move time
end

local ISSUED = 0.98           -- leases may be spent a little late; the rest of the limit pays for that
local EMERGENCY = 0.05
local GUARD = 0.05            -- what bulk gets at least
local GUARD_SPAN = 5000000    -- a guard that was not used is worth at most this much time
local HEAL_US = 1500000       -- workers say hello every second, so by then each has told what it knows
local HELD_US = 30000000      -- a slot of a worker that died
local WANT_US = 500000        -- how long a waiter's claim outlives its wait
local WORKER_US = 10000000
local SLOT_WAIT_US = 100000
local TRIMMED_WAIT_US = 1000000
local PAUSE_US, BULK_PAUSE_US = 5000, 20000
local KEEP_MS = 3600000
local RETRY_BUDGET = 500
local CUBIC_SCALE, CUBIC_BETA, CUBIC_FLOOR = 0.4, 0.7, 0.5
local BULK, FIRST = 3, -1     -- ranks: -1 emergency, 0 critical, 1 interactive, 2 probe, 3 bulk
local TINY = 1e-6

local function read(key)
  local flat, found = redis.call('HGETALL', key), {}
  for i = 1, #flat, 2 do found[flat[i]] = flat[i + 1] end
  return found
end

local function number(value) return tonumber(value) or 0 end

-- Whoever waits before this request, and the others of its class: only unmet wants are stored, with what was granted
-- of them in the last half second.
local function queue(key)
  local found = { ahead = 0, peers = {}, bulk = false, served = 0, since = now }
  for field, value in pairs(read(key)) do
    local units, expires, served, since = value:match('^(.-)|(.-)|(.-)|(.*)$')
    local level, who = field:match('^(.-)|(.*)$')
    level, units, served, since = tonumber(level), tonumber(units), tonumber(served), tonumber(since)
    if now - since > WANT_US then served, since = 0, now end
    if tonumber(expires) <= now then
      redis.call('HDEL', key, field)
    else
      if level == BULK then found.bulk = true end
      if level < rank then
        found.ahead = found.ahead + units
      elseif level == rank and who == worker .. '|' .. claim then
        found.served, found.since = served, since
      elseif level == rank then
        found.peers[#found.peers + 1] = { want = units + served, served = served }
      end
    end
  end
  return found
end

-- Max-min: the greatest level at which everybody who wants less is served and the rest gets the same. Whoever got more
-- than another who still waits lets that one go first.
local function share(units, queued)
  local mine = want + queued.served
  local left, count, behind = units + queued.served, #queued.peers + 1, false
  for _, peer in ipairs(queued.peers) do
    left = left + peer.served
    if peer.served < queued.served then behind = true end
  end
  table.sort(queued.peers, function(a, b) return a.want < b.want end)
  for _, peer in ipairs(queued.peers) do
    if peer.want >= mine or peer.want > left / count then break end
    left, count = left - peer.want, count - 1
  end
  local fair = math.min(mine, left / count) - queued.served
  if fair < cost and behind then return 0 end
  return math.max(cost, fair)
end

local function cubic_rate(state)
  local top = tonumber(state.cw)
  if not top then return nil end
  local seconds = (now - number(state.cc)) / 1000000
  local turn = (top * (1 - CUBIC_BETA) / CUBIC_SCALE) ^ (1 / 3)
  local grown = CUBIC_SCALE * (seconds - turn) ^ 3 + top
  return math.max(CUBIC_FLOOR, math.min(grown, math.max(top, 2 * number(state.mr))))
end

-- How many units fit now, and from when on `cost` fits. A class whose part of the burst is less than one call waits
-- until the bucket was idle for what is missing, so that it still stands behind the classes above it.
local function paced(tat, gap, burst, room, ahead)
  -- A number of microseconds since 1970 is exact to a quarter of one.
  local fits = (now + 1 + room - math.max(tat, now)) / gap - ahead
  local at = tat + (cost + ahead) * gap - room
  if fits < cost and cost * gap > room and cost <= burst + TINY and at <= now then fits = cost end
  return fits, at
end

local function trimmed(bucket, w, gap, fits, at)
  if w.trim <= 0 then return fits, at end
  if w.trim >= 1 then return 0, now + TRIMMED_WAIT_US end
  local slow = gap / (1 - w.trim)
  w.slow = slow
  local may, from = paced(number(bucket.state['p' .. w.id .. rank]), slow, math.max(w.burst, cost),
    math.max(w.burst, cost) * slow, 0)
  return math.min(fits, may), math.max(at, from)
end

local shapes = {}

shapes.gcra = {
  load = function(bucket, w)
    w.gap = w.span / (w.limit * ISSUED)
    w.tau = w.burst * w.gap
    local tat = math.max(number(bucket.state['t' .. w.id]), tonumber(w.known) or 0)
    if w.owed > 0 then tat = math.max(tat, now) + w.owed * w.gap end
    -- Further ahead than anything could have put it: the clock went back. Full, but never shut for an hour.
    w.tat = math.min(tat - back * w.gap, now + 2 * w.tau + EMERGENCY * w.limit * w.gap)
  end,
  fits = function(bucket, w, ahead, lenient)
    if rank == FIRST then
      local may, from = paced(number(bucket.state['e' .. w.id]), w.gap / EMERGENCY, math.max(1, EMERGENCY * w.limit),
        math.max(1, EMERGENCY * w.limit) * w.gap / EMERGENCY, 0)
      local fits, at = paced(w.tat, w.gap, w.burst, w.tau + EMERGENCY * w.limit * w.gap, 0)
      return math.min(may, fits), math.max(from, at)
    end
    local room = lenient and w.tau or w.tau * (1 - w.reserve)
    local fits, at = paced(w.tat, w.gap, w.burst, room, ahead)
    return trimmed(bucket, w, w.gap, fits, at)
  end,
  commit = function(bucket, w, n)
    w.tat = (n > 0 and math.max(w.tat, now) or w.tat) + n * w.gap
    bucket.set('t' .. w.id, w.tat)
    if rank == FIRST and n > 0 then
      bucket.set('e' .. w.id, math.max(number(bucket.state['e' .. w.id]), now) + n * w.gap / EMERGENCY)
    end
    return string.format('%.0f', math.ceil(w.tat))
  end,
}

-- Where the provider's windows turn (turn.lua); after a flush as the workers tell. `doubt` before a turn, what is granted
-- counts for the window behind it, too.
local function placed(w, s, id)
  local index, count, phase, doubt = w.known:match('^([^:]*):([^:]*):?([^:]*):?([^:]*)$')
  w.phase, w.doubt = tonumber(s['o' .. id]), number(s['g' .. id])
  local moved = not w.phase and tonumber(phase) ~= nil
  if moved then
    w.phase, w.doubt = tonumber(phase), number(doubt)
    -- What others counted meanwhile, by windows of another phase, is not lost by the move.
    if s['i' .. id] then s['i' .. id] = math.floor((now - w.phase) / w.span) end
  end
  w.turns = w.phase ~= nil
  w.phase = w.phase or 0
  w.index = math.floor((now - w.phase) / w.span)
  w.stop = (w.index + 1) * w.span + w.phase
  w.left = (w.stop - now) / w.span
  w.zone = now >= w.stop - w.doubt
  return tonumber(index), tonumber(count), number(phase)
end

shapes.fixed = {
  load = function(bucket, w)
    local s, id = bucket.state, w.id
    w.gap = w.span / (w.limit * ISSUED)
    local index, count, phase = placed(w, s, id)
    w.count, w.high, w.first, w.before = number(s['c' .. id]), number(s['h' .. id]), number(s['f' .. id]), s['b' .. id]
    w.last, w.carried = number(s['l' .. id]), number(s['n' .. id])
    local stored = number(s['i' .. id])
    if number(s['m' .. id]) ~= stored + 1 then w.carried = 0 end
    -- A clock that went back finds a later window here and keeps its count.
    if w.index > stored then
      local follows = w.index == stored + 1
      w.before = follows and w.high or (stored > 0 and 0 or nil)
      w.last = follows and w.count or 0
      w.count, w.carried, w.high, w.first = follows and w.carried or 0, 0, 0, 0
    elseif back > 0 and math.floor((back_at - w.phase) / w.span) == w.index then
      w.count = math.max(0, w.count - back)
      if rank < BULK then w.high = math.max(0, w.high - back) end
    end
    -- The same window, perhaps by an older idea of where it begins.
    if index and math.abs(index * w.span + phase - w.stop + w.span) < w.span then w.count = math.max(w.count, count) end
    w.count = w.count + w.owed
  end,
  fits = function(bucket, w, ahead, lenient)
    local room = w.limit * ISSUED - w.count
    if rank == FIRST then
      return math.min(room, math.max(1, EMERGENCY * w.limit) - w.first) + TINY, w.stop
    end
    -- What is kept for an emergency, and from bulk for those before it, is set free as the window runs out.
    local kept = math.max(0, EMERGENCY * w.limit - w.first) * w.left
    if rank == BULK and not lenient then
      local expected = w.reserve * w.limit
      if w.before then
        expected = math.max(tonumber(w.before), w.left < 0.9 and w.high / (1 - w.left) or 0)
      end
      kept = kept + w.left * math.max(w.reserve * w.limit, expected) + 2 * math.sqrt(expected * w.left)
    end
    local fits, at = room - kept - ahead, w.stop
    if fits < cost and room - ahead >= cost and kept > 0 then
      at = math.min(w.stop, now + math.max(1000, (cost - fits) / kept * w.left * w.span))
    end
    return trimmed(bucket, w, w.gap, fits + TINY, at)
  end,
  commit = function(bucket, w, n)
    w.count = w.count + n
    bucket.set('i' .. w.id, w.index)
    bucket.set('c' .. w.id, w.count)
    bucket.set('l' .. w.id, w.last)
    if w.turns then
      if w.zone then w.carried = w.carried + n + w.owed end
      bucket.set('m' .. w.id, w.index + 1)
      bucket.set('n' .. w.id, w.carried)
      bucket.set('o' .. w.id, w.phase)
      bucket.set('g' .. w.id, w.doubt)
    end
    bucket.set('h' .. w.id, rank < BULK and w.high + n or w.high)
    bucket.set('f' .. w.id, rank == FIRST and w.first + n or w.first)
    if w.before then bucket.set('b' .. w.id, w.before) end
    local told = w.index .. ':' .. w.count
    return w.turns and string.format('%s:%.3f:%.3f', told, w.phase, w.doubt) or told
  end,
}

shapes.concurrent = {
  load = function(bucket, w)
    w.gap, w.mine, w.others = 0, tonumber(w.known) or 0, 0
    for who, value in pairs(read(bucket.held_key)) do
      local slots, expires = value:match('^(.-)|(.*)$')
      if tonumber(expires) <= now then
        redis.call('HDEL', bucket.held_key, who)
      elseif who ~= worker then
        w.others = w.others + tonumber(slots)
      end
    end
  end,
  fits = function(_, w, ahead, lenient)
    local top = (lenient or rank == FIRST) and w.limit or math.max(1, w.limit * (1 - w.reserve))
    if w.trim >= 1 and rank ~= FIRST then return 0, now + TRIMMED_WAIT_US end
    return top - w.others - w.mine - ahead + TINY, now + SLOT_WAIT_US
  end,
  commit = function(bucket, w, n)
    if w.mine + n > 0 then
      redis.call('HSET', bucket.held_key, worker, (w.mine + n) .. '|' .. (now + HELD_US))
      redis.call('PEXPIRE', bucket.held_key, 2 * HELD_US / 1000)
    else
      redis.call('HDEL', bucket.held_key, worker)
    end
    return ''
  end,
}

local function window(at)
  return {
    shape = shapes[ARGV[at]], id = ARGV[at + 1], limit = tonumber(ARGV[at + 2]), span = tonumber(ARGV[at + 3]),
    burst = tonumber(ARGV[at + 4]), reserve = tonumber(ARGV[at + 5]), trim = tonumber(ARGV[at + 6]),
    known = ARGV[at + 7], owed = tonumber(ARGV[at + 8]),
  }
end

local function load(number_of, at)
  local first = 4 + (number_of - 1) * 3
  local bucket = { key = KEYS[first], wants_key = KEYS[first + 1], held_key = KEYS[first + 2], windows = {} }
  bucket.state, bucket.changes, bucket.keep = read(bucket.key), {}, KEEP_MS
  bucket.set = function(field, value)
    if type(value) == 'number' then value = string.format('%.3f', value) end
    bucket.changes[#bucket.changes + 1] = field
    bucket.changes[#bucket.changes + 1] = value
  end
  local slowest = 0
  for i = 1, tonumber(ARGV[at]) do
    local w = window(at + 1 + (i - 1) * 9)
    w.shape.load(bucket, w)
    slowest = math.max(slowest, w.gap)
    bucket.keep = math.max(bucket.keep, 2 * w.span / 1000)
    bucket.windows[i] = w
  end
  bucket.rate = cubic_rate(bucket.state)
  if bucket.rate then slowest = math.max(slowest, 1000000 / bucket.rate) end
  bucket.gap = slowest
  bucket.guard_gap = slowest / GUARD
  bucket.queue = queue(bucket.wants_key)
  bucket.guard = tonumber(bucket.state.bg)
  bucket.guarded = slowest > 0 and bucket.guard ~= nil and bucket.guard <= now and number(bucket.state.em) <= now
  return bucket, at + 1 + #bucket.windows * 9
end

-- Units that this bucket has for the request, the instant from which one call fits, and whether only the guard lets it.
local function fits_in(bucket, lenient)
  local ahead = (lenient or rank == FIRST) and 0 or bucket.queue.ahead
  if rank ~= BULK and rank ~= FIRST and bucket.guarded and bucket.queue.bulk then ahead = ahead + 1 end
  local blocked = number(bucket.state.blk)
  local fits, at = math.huge, 0
  if blocked > now then fits, at = 0, blocked end
  for _, w in ipairs(bucket.windows) do
    local units, from = w.shape.fits(bucket, w, ahead, lenient)
    fits, at = math.min(fits, units), math.max(at, units < cost and from or 0)
  end
  if bucket.rate and rank ~= FIRST then
    local burst = math.max(1, cost, bucket.rate / 10)
    local gap = 1000000 / bucket.rate
    local room = burst * gap * (lenient and 1 or 1 - reserve)
    local units, from = paced(number(bucket.state.ct), gap, burst, room, ahead)
    fits, at = math.min(fits, units), math.max(at, units < cost and from or 0)
  end
  if fits < cost and rank == BULK and not lenient and number(bucket.state.em) <= now then
    if bucket.guarded then
      local spare, later = fits_in(bucket, true)
      if spare >= cost then return cost, 0, true end
      return fits, math.min(at, later), false
    end
    if bucket.guard then at = math.max(blocked, math.min(at, bucket.guard)) end
  end
  return fits, at, false
end

local function remember(bucket, n, unmet, wait)
  local field = rank .. '|' .. worker .. '|' .. claim
  if unmet > 0 and rank ~= FIRST then
    redis.call('HSET', bucket.wants_key, field, string.format('%.3f|%.0f|%.3f|%.0f', unmet, now + wait + WANT_US,
      bucket.queue.served + n, bucket.queue.since))
    redis.call('PEXPIRE', bucket.wants_key, math.ceil((wait + WANT_US) / 1000) + 1000)
    if rank == BULK and not bucket.guard and bucket.guard_gap > 0 then bucket.set('bg', now + cost * bucket.guard_gap) end
  elseif want > 0 then
    redis.call('HDEL', bucket.wants_key, field)
  end
  if n <= 0 then return end
  if rank == BULK and bucket.guard_gap > 0 then
    local due = math.max(bucket.guard or now, now - GUARD_SPAN) + n * bucket.guard_gap
    bucket.set('bg', math.min(due, now + 60000000))
  end
  if rank == FIRST then bucket.set('em', now + 60000000) end
  if bucket.rate then bucket.set('ct', math.max(number(bucket.state.ct), now) + n * 1000000 / bucket.rate) end
  -- The measured rate, smoothed over half seconds, is what CUBIC starts from.
  local since, count = number(bucket.state.mt), number(bucket.state.mn) + n
  if now - since >= 500000 or now < since then
    if since > 0 and now > since then
      bucket.set('mr', 0.8 * count * 1000000 / (now - since) + 0.2 * number(bucket.state.mr))
    end
    since, count = now, 0
  end
  bucket.set('mt', since)
  bucket.set('mn', count)
end

local born = number(redis.call('HGET', KEYS[2], 'born'))
if born == 0 then
  born = now
  redis.call('HSET', KEYS[2], 'born', string.format('%.0f', born))
end
local healing = now - born >= 0 and now - born < HEAL_US

local all, at = {}, 15
for i = 1, buckets do all[i], at = load(i, at) end

local granted, wait = 0, 0
if want > 0 and healing then
  wait = born + HEAL_US - now
elseif want > 0 then
  local fits, from = math.huge, 0
  granted = want
  local paused = false
  for _, bucket in ipairs(all) do
    local units, later = fits_in(bucket, false)
    fits, from = math.min(fits, units), math.max(from, units < cost and later or 0)
    granted = math.min(granted, share(units, bucket.queue))
    paused = paused or granted < cost
  end
  if paused then from = math.max(from, now + PAUSE_US) end
  if fits >= cost and not paused then
    granted = math.min(fits, granted)
  else
    -- Where many wait, a little longer is worth a lease of many; one that waits alone is not kept.
    local gap = 0
    for _, bucket in ipairs(all) do gap = math.max(gap, bucket.gap) end
    local more = math.min((need - cost) * gap, rank == BULK and BULK_PAUSE_US or PAUSE_US)
    granted, wait = 0, math.max(1000, from - now + math.max(0, more))
  end
end

local lease_end, known = now + lease_us, {}
for _, bucket in ipairs(all) do
  for _, w in ipairs(bucket.windows) do
    known[#known + 1] = w.shape.commit(bucket, w, granted)
    -- What is leased before the doubt must not be spent in it, where it would count for the next window as well.
    if w.stop then lease_end = math.min(lease_end, (w.turns and not w.zone) and w.stop - w.doubt or w.stop) end
    if w.slow and granted > 0 then
      local field = 'p' .. w.id .. rank
      bucket.set(field, math.max(number(bucket.state[field]), now) + granted * w.slow)
    end
  end
  remember(bucket, granted, healing and 0 or need - granted, wait)
  if #bucket.changes > 0 then
    redis.call('HSET', bucket.key, unpack(bucket.changes))
    redis.call('PEXPIRE', bucket.key, bucket.keep)
  end
end

local budget = redis.call('HGET', KEYS[2], 'retry')
if retry ~= 0 then
  budget = math.max(0, math.min(RETRY_BUDGET, (tonumber(budget) or RETRY_BUDGET) + retry))
  redis.call('HSET', KEYS[2], 'retry', budget)
end
if hello == '1' then
  redis.call('ZADD', KEYS[3], now, worker)
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now - WORKER_US)
  redis.call('PEXPIRE', KEYS[3], 2 * WORKER_US / 1000)
  redis.call('PEXPIRE', KEYS[2], 48 * KEEP_MS)
end

-- Thousandths of units granted, microseconds to wait, route version, birth of this state, whether it still heals,
-- workers seen, retry budget, end of the lease, now; then per window what the worker tells after a flush.
return {
  math.floor(granted * 1000 + 0.5), math.ceil(wait), tonumber(redis.call('GET', KEYS[1]) or 0) or 0, born,
  healing and 1 or 0, redis.call('ZCARD', KEYS[3]), math.floor(tonumber(budget) or RETRY_BUDGET),
  math.floor(lease_end), now, known,
}
