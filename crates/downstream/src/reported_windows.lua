-- ReportedWindows of reported_windows.rs, step by step, kept in Redis for all workers. Look there for the reasons; a test makes both decide the
-- same cases.
--
-- KEYS[1]  the windows of one budget: a hash from each window's end, in milliseconds of this server's clock, to `length left is_reported`
-- ARGV     ends_in, length, same (milliseconds), is_reported (0 or 1), left, amount; for tests: the time in milliseconds
-- Replies with what was taken and when the window ends, milliseconds from now.

local MOST_WINDOWS, ALIKE = 64, 4
local ends_in, length, same = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local is_reported, left, amount, now = ARGV[4] == '1', tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1e3 + math.floor(tonumber(time[2]) / 1e3)
end
local ends = now + ends_in

local windows = {}
local stored = redis.call('HGETALL', KEYS[1])
for index = 1, #stored, 2 do
  local of_length, of_left, reported = string.match(stored[index + 1], '^(%S+) (%S+) (%d)$')
  windows[#windows + 1] = { name = stored[index], ends = tonumber(stored[index]), length = tonumber(of_length),
    left = tonumber(of_left), reported = reported == '1' }
end
table.sort(windows, function(a, b) return a.ends < b.ends end)

local found
for _, window in ipairs(windows) do
  local apart = math.abs(window.ends - ends)
  local alike = window.length <= length * ALIKE and length <= window.length * ALIKE
  if window.ends > now and (apart <= same or (not is_reported and window.ends < ends and alike))
    and (not found or apart < math.abs(found.ends - ends)) then
    found = window
  end
end

if not found then
  local first
  local kept = 0
  for _, window in ipairs(windows) do
    local corrected = is_reported and not window.reported and window.ends >= now + ends_in / ALIKE
      and window.ends <= now + ends_in * ALIKE
    if corrected then left = math.min(left, window.left) end
    if window.ends <= now or corrected then
      redis.call('HDEL', KEYS[1], window.name)
    else
      kept = kept + 1
      first = first or window
    end
  end
  if kept >= MOST_WINDOWS then redis.call('HDEL', KEYS[1], first.name) end
  found = { ends = ends, length = 0, left = left, reported = is_reported }
end

found.length = math.max(found.length, length)
if is_reported then
  found.ends = found.reported and math.max(found.ends, ends) or ends
  found.reported = true
  found.left = math.min(found.left, left)
end
local given = math.max(math.min(amount, math.floor(found.left)), 0)
if not is_reported and found.reported and found.ends - now <= same then given = 0 end
found.left = found.left - given
local name = string.format('%.3f', found.ends)
if found.name and found.name ~= name then redis.call('HDEL', KEYS[1], found.name) end
redis.call('HSET', KEYS[1], name, string.format('%.17g %.17g %d', found.length, found.left, found.reported and 1 or 0))
redis.call('PEXPIRE', KEYS[1], math.floor(math.max(found.ends - now, 0)) + 3600000)
return { string.format('%d', given), string.format('%.3f', math.max(found.ends - now, 0)) }
