-- ToldWindows of told_windows.rs, function by function, kept in Redis for all workers. Look there for the reasons; a test makes both
-- decide the same cases.
--
-- KEYS[1]  the windows of one budget: a hash from each window's end, in milliseconds of this server's clock, to `left taken is_told`; and `share`
-- ARGV     ends_in, same (milliseconds), is_told (0 or 1), left, used, counted, amount; for tests: the time in milliseconds
-- Replies with what was taken and when the window ends, milliseconds from now.

local MOST_WINDOWS = 64
local ends_in, same, is_told, left = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3] == '1', tonumber(ARGV[4])
local used, counted, amount, now = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1e3 + math.floor(tonumber(time[2]) / 1e3)
end
local ends = now + ends_in

local windows, share = {}, nil
local stored = redis.call('HGETALL', KEYS[1])
for index = 1, #stored, 2 do
  if stored[index] == 'share' then
    share = tonumber(stored[index + 1])
  else
    local of_left, taken, told = string.match(stored[index + 1], '^(%S+) (%S+) (%d)$')
    windows[#windows + 1] = { name = stored[index], ends = tonumber(stored[index]), left = tonumber(of_left),
      taken = tonumber(taken), told = told == '1' }
  end
end

table.sort(windows, function(a, b) return a.ends < b.ends end)

local found
for _, window in ipairs(windows) do
  local apart = math.abs(window.ends - ends)
  if window.ends > now and (apart <= same or (not is_told and window.ends < ends))
    and (not found or apart < math.abs(found.ends - ends)) then
    found = window
  end
end

if not found then
  local before
  for _, window in ipairs(windows) do
    if window.ends <= now then before = window end
  end
  if before and counted > 0 then
    share = math.max(0.01, math.min(1, before.taken / counted))
    redis.call('HSET', KEYS[1], 'share', string.format('%.17g', share))
  end
  local of_ours, of_taken = math.floor(left * (share or 1) + 1e-6), used * (share or 1)
  local kept, soonest = 0, now + ends_in / 4
  local first
  for _, window in ipairs(windows) do
    local corrected = is_told and not window.told and window.ends >= soonest
    if corrected then
      of_ours, of_taken = math.min(of_ours, window.left), math.max(of_taken, window.taken)
    end
    if window.ends <= now or corrected then
      redis.call('HDEL', KEYS[1], window.name)
    else
      kept = kept + 1
      first = first or window
    end
  end
  if kept >= MOST_WINDOWS then redis.call('HDEL', KEYS[1], first.name) end
  found = { name = string.format('%.3f', ends), ends = ends, left = of_ours, taken = of_taken, told = is_told }
end

if is_told then
  found.told = true
  found.left = math.min(found.left, left)
end
local given = math.max(math.min(amount, math.floor(found.left)), 0)
found.left = found.left - given
found.taken = found.taken + given
redis.call('HSET', KEYS[1], found.name,
  string.format('%.17g %.17g %d', found.left, found.taken, found.told and 1 or 0))
-- As long as a window lasts, and its share is remembered.
redis.call('PEXPIRE', KEYS[1], math.floor(math.max(found.ends - now, 0)) + 3600000)
return { string.format('%d', given), string.format('%.3f', math.max(found.ends - now, 0)) }
