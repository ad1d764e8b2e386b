-- A provider said 429: blocks the bucket that it named, and lowers the shared estimate once per round trip.
--
-- KEYS: 1 bucket's state hash. ARGV: 1 microseconds to block (0: none), 2 age of the call in microseconds, 3 time.
-- A call that was sent before the last cut was already answered by it, so it does not cut again; an age of more than
-- the clock's (an empty quota that was announced, not refused) never cuts.
local now
if ARGV[3] == '' then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
else
  now = tonumber(ARGV[3])  -- only tests move time
end
local CUBIC_SCALE, CUBIC_BETA, CUBIC_FLOOR = 0.4, 0.7, 0.5
local KEEP_MS = 3600000

local flat, state = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #flat, 2 do state[flat[i]] = tonumber(flat[i + 1]) end

local until_us = now + tonumber(ARGV[1])
if tonumber(ARGV[1]) > 0 and until_us > (state.blk or 0) then
  redis.call('HSET', KEYS[1], 'blk', string.format('%.0f', until_us))
end

local cut = state.cc or 0
if cut > now or now - tonumber(ARGV[2]) > cut then
  local rate = state.mr or 0
  local since = state.mt or now
  -- Within the first half second nothing is smoothed yet.
  if rate == 0 and now > since then rate = (state.mn or 0) * 1000000 / (now - since) end
  if state.cw then
    local turn = (state.cw * (1 - CUBIC_BETA) / CUBIC_SCALE) ^ (1 / 3)
    local estimate = CUBIC_SCALE * ((now - cut) / 1000000 - turn) ^ 3 + state.cw
    if rate == 0 or estimate < rate then rate = estimate end
  end
  rate = math.max(rate, CUBIC_FLOOR / CUBIC_BETA)
  redis.call('HSET', KEYS[1], 'cw', string.format('%.3f', rate), 'cc', string.format('%.0f', now))
  state.cw = rate
end
redis.call('PEXPIRE', KEYS[1], math.max(redis.call('PTTL', KEYS[1]), KEEP_MS, tonumber(ARGV[1]) / 1000))
return string.format('%.3f', (state.cw or 0) * CUBIC_BETA)
