-- Where a provider's fixed windows turn, as answers show it: moves a window of ours there, and never forgets a call.
--
-- KEYS: 1 bucket's state hash. ARGV: 1 window id, 2 its length, 3 and 4 the earliest and the latest instant of one turn,
-- 5 how long a call may be under way, 6 time; all in microseconds of this server's clock.
-- The window turns at the latest instant; what is granted from the earliest one on, less the way, counts for both
-- windows, so wherever the turn really is, neither holds more than its limit.
local id, span, from, to, way = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local now
if ARGV[6] == '' then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
else
  now = tonumber(ARGV[6])  -- only tests move time
end

local flat, state = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #flat, 2 do state[flat[i]] = tonumber(flat[i + 1]) end
local function kept(name) return state[name .. id] or 0 end

-- What was known is narrowed, by whichever worker knows better; what contradicts it replaces it.
local phase, width, doubt = kept('o'), kept('v'), kept('g')
if state['o' .. id] then
  local known = phase + math.floor((to - phase) / span + 0.5) * span
  if math.max(from, known - width) <= math.min(to, known) then
    from, to = math.max(from, known - width), math.min(to, known)
  end
end

-- The window that runs under the old phase, and what it holds.
local index, count, last, carried = kept('i'), kept('c'), kept('l'), 0
local running = math.floor((now - phase) / span)
if kept('m') == index + 1 then carried = kept('n') end
if running > index then
  count, last = running == index + 1 and carried or 0, running == index + 1 and count or 0
  carried = 0
end
local start = running * span + phase

local new_phase = to % span
local new_index = math.floor((now - new_phase) / span)
local new_start = new_index * span + new_phase
if new_start >= start + span - doubt then
  -- The next window runs already; what it holds was carried.
  count, last, carried = carried, count, 0
elseif new_start < start - doubt then
  -- It began before ours did: nobody knows how much of the window before lies in it, so all of it counts.
  count = count + last
end

local function text(value) return string.format('%.3f', value) end
redis.call('HSET', KEYS[1], 'o' .. id, text(new_phase), 'v' .. id, text(to - from), 'g' .. id, text(to - from + way),
  'i' .. id, text(new_index), 'c' .. id, text(count), 'l' .. id, text(last),
  'm' .. id, text(new_index + 1), 'n' .. id, text(carried))
if running > kept('i') then
  redis.call('HSET', KEYS[1], 'b' .. id, text(running == kept('i') + 1 and kept('h') or 0), 'h' .. id, '0', 'f' .. id, '0')
end
redis.call('PEXPIRE', KEYS[1], math.max(redis.call('PTTL', KEYS[1]), 3600000, 2 * span / 1000))
return text(new_phase)
