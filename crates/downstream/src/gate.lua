-- The gates of penstock_domain::limit, function by function, kept in Redis for all workers. Look there for the reasons;
-- a test makes both decide the same cases. One call of this script is one decision, and one round trip.
--
-- KEYS     for each gate, the dependency's first: its hash, and the sorted set of its slots (token -> end of its lease)
-- ARGV[1]  what is asked, as JSON: see `Asked` in wire.rs
-- Times are microseconds of this server's clock. Replies are strings: Lua's numbers would lose their fractions. All but
-- what an operator sees begin with this server's time.

local MAX_WAIT, FRESH, FRESH_LEADS, SLOT_RETRY = 1e6, 2e3, 3, 5e4
local MARGIN = 25e3
-- Gates that were used more recently are not asked whether the server restarted meanwhile.
local RECENT = 1e5
local SLOWEST, PAUSES_TO_CEILING, SOONEST, LATEST = 0.05, 20, 20e6, 300e6
local SIGN_EVERY, SETTLED = 1e6, 5e6
local CUT_LITTLE, CUT_PAUSED, CUT_BLIND = 0.9, 0.75, 0.5
-- State that nobody used for so long is forgotten, but no pause is (see `save`).
local KEEP_MS = 6 * 3600 * 1000

local FIELDS = { 'tat', 'paused_until', 'factor', 'ceiling', 'since', 'deaf_until', 'climb', 'window_start', 'good', 'bad',
  'run', 'open_until', 'probes_out', 'probes_good', 'probing_since', 'known_since', 'used_at', 'cause' }
local DEFAULTS = { factor = 1, ceiling = 1, climb = SOONEST }

local asked = cjson.decode(ARGV[1])
local now = asked.now
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1e6 + tonumber(time[2])
end

local function text(number)
  return string.format('%.17g', number)
end

-- Whether the server may have started since then: what it knows can be older than what it had granted.
local function restarted_since(moment)
  if asked.now or now - moment < RECENT then return false end
  -- Whole seconds on both ends: a second more is on the safe side.
  local uptime = tonumber(string.match(redis.call('INFO', 'server'), 'uptime_in_seconds:(%d+)'))
  return moment < now - uptime * 1e6 + 1e6
end

-- rate.rs

local function margin(rate)
  return math.min(MARGIN, (rate.burst - 1) * rate.interval_us)
end

local function tolerance(rate)
  return rate.burst * rate.interval_us - margin(rate)
end

local function empty_at(rate, at)
  return at + tolerance(rate) - rate.interval_us
end

local function unknown_at(rate, cold_wait)
  return empty_at(rate, now + math.max(cold_wait, rate.interval_us - MARGIN))
end

local function moment_of(rate, tat, soonest, cost)
  return math.max(soonest, tat + cost * rate.interval_us - tolerance(rate))
end

local function slack_of(tat, at)
  return math.max(tat - at, 0)
end

local function charged(rate, tat, at, cost, factor)
  local first = 0
  if tat < at then first = MARGIN - margin(rate) end
  return math.max(tat, at) + first + cost * rate.interval_us / factor
end

local function furthest(rate)
  return now + MAX_WAIT + tolerance(rate) + rate.burst * rate.interval_us / SLOWEST + MARGIN
end

-- slow_down.rs

local function factor_of(gate)
  local left = 1 - math.max(now - gate.since, 0) / gate.climb
  return math.min(gate.ceiling - (gate.ceiling - gate.factor) * left * left * left, 1)
end

local function mean_of(gate)
  local passed = now - gate.since
  local left = 1 - passed / gate.climb
  local under = (1 - left * left * left * left) / 4 * gate.climb / passed
  return math.min(gate.ceiling - (gate.ceiling - gate.factor) * under, 1)
end

local function sign(gate, pause_until)
  if now < gate.deaf_until then return end
  local ceiling = factor_of(gate)
  local first = gate.since == 0 or ceiling >= 1
  local cut
  if not first and now - gate.since >= SETTLED then
    ceiling, cut = mean_of(gate), CUT_LITTLE
  elseif not pause_until then
    cut = CUT_BLIND
  else
    cut = first and CUT_LITTLE or CUT_PAUSED
  end
  gate.since = math.max(pause_until or now, now)
  gate.factor = math.max(ceiling * cut, SLOWEST)
  gate.ceiling = math.max(ceiling, gate.factor / CUT_LITTLE)
  gate.deaf_until = math.max(gate.since, now + SIGN_EVERY)
  gate.climb = math.min(math.max((gate.since - now) * PAUSES_TO_CEILING, SOONEST), LATEST)
end

-- breaker.rs

local function reset_breaker(gate)
  gate.window_start, gate.good, gate.bad, gate.run, gate.open_until = 0, 0, 0, 0, 0
  gate.probes_out, gate.probes_good, gate.probing_since = 0, 0, 0
end

local function shut_until(gate)
  if gate.open_until == 0 then return nil end
  if now < gate.open_until then return gate.open_until end
  local patience = gate.probing_since + gate.policy.breaker.open_for_us
  if gate.probes_out >= gate.policy.breaker.probes and now < patience then return patience end
  return nil
end

local function breaker_called(gate)
  if gate.open_until == 0 then return false end
  if gate.probes_out >= gate.policy.breaker.probes then gate.probes_out = 0 end
  if gate.probes_out == 0 then gate.probing_since = now end
  gate.probes_out = gate.probes_out + 1
  return true
end

local function breaker_told(gate, good, bad, probe)
  local policy = gate.policy.breaker
  local function open()
    reset_breaker(gate)
    gate.open_until = now + policy.open_for_us
  end
  if gate.open_until > 0 then
    if now < gate.open_until or not probe then return end
    if bad > 0 then return open() end
    gate.probes_good = gate.probes_good + good
    if gate.probes_good >= policy.probes then
      reset_breaker(gate)
      gate.window_start = now
    end
    return
  end
  if now - gate.window_start > policy.window_us then
    reset_breaker(gate)
    gate.window_start = now
  end
  gate.good = gate.good + good
  gate.bad = gate.bad + bad
  gate.run = good > 0 and bad or gate.run + bad
  local calls = gate.good + gate.bad
  local share_passed = gate.bad * 10000 >= policy.failure_bp * calls
  if bad > 0 and (gate.run >= policy.min_calls or calls >= policy.min_calls and share_passed) then open() end
end

local function breaker_state(gate)
  if gate.open_until == 0 then return 'closed' end
  return now < gate.open_until and 'open' or 'half_open'
end

-- gate.rs

local function load(index)
  local key = KEYS[2 * index - 1]
  local found = redis.call('HMGET', key, unpack(FIELDS))
  local gate = { key = key, slots = KEYS[2 * index], policy = asked.gates[index] }
  for place, field in ipairs(FIELDS) do
    gate[field] = tonumber(found[place] or nil) or DEFAULTS[field] or 0
  end
  gate.was_known_since = gate.known_since
  local rate = gate.policy.rate
  if gate.used_at > 0 and restarted_since(gate.used_at) then
    gate.known_since = now
    if rate and gate.tat > 0 then gate.tat = math.max(gate.tat, unknown_at(rate, gate.policy.cold_wait_us)) end
  end
  return gate
end

local function save(gate)
  gate.used_at = now
  local values = {}
  for _, field in ipairs(FIELDS) do
    values[#values + 1] = field
    values[#values + 1] = text(gate[field])
  end
  redis.call('HSET', gate.key, unpack(values))
  local paused_ms = math.max(math.ceil((gate.paused_until - now) / 1e3), 0)
  redis.call('PEXPIRE', gate.key, KEEP_MS + paused_ms)
end

local function tat_of(gate)
  local rate = gate.policy.rate
  if gate.tat == 0 then gate.tat = unknown_at(rate, gate.policy.cold_wait_us) end
  gate.tat = math.min(gate.tat, furthest(rate))
  if gate.paused_until > 0 then return math.max(gate.tat, empty_at(rate, gate.paused_until)) end
  return gate.tat
end

local function slots_from(gate)
  if gate.known_since == 0 then gate.known_since = now end
  return gate.known_since + gate.policy.cold_wait_us
end

local function in_flight(gate)
  redis.call('ZREMRANGEBYSCORE', gate.slots, '-inf', text(now))
  return redis.call('ZCARD', gate.slots)
end

local function no_slot(gate, token)
  local most = gate.policy.concurrency
  if not most or in_flight(gate) < most then return false end
  return not (token and redis.call('ZSCORE', gate.slots, token))
end

local function take_slot(gate, from, token, lease)
  if not gate.policy.concurrency then return end
  redis.call('ZADD', gate.slots, text(from + lease), token)
  redis.call('PEXPIRE', gate.slots, KEEP_MS)
end

local function denied(retry_after, reason)
  return { text(now), 'denied', text(retry_after), reason }
end

local function look(gate, place)
  local wait, cold_until = 0, slots_from(gate)
  if gate.policy.rate then
    wait = moment_of(gate.policy.rate, tat_of(gate), now + asked.lead_us, asked.cost) - now
  end
  if gate.paused_until > now then return nil, denied(gate.paused_until - now, 'paused') end
  local shut = gate.policy.breaker and shut_until(gate)
  if shut then return nil, denied(shut - now, 'breaker_open') end
  if no_slot(gate) then return nil, denied(SLOT_RETRY, 'concurrency') end
  if wait > MAX_WAIT then return nil, denied(wait, place == 1 and 'rate' or 'owner_rate') end
  local cold = gate.policy.concurrency and now < cold_until
  if cold then wait = math.max(wait, cold_until - now) end
  return { wait = wait, cold = cold }
end

local function charge(gate, wait)
  local rate = gate.policy.rate
  if not rate then return 0 end
  local tat = tat_of(gate)
  gate.tat = charged(rate, tat, now + wait, asked.cost, factor_of(gate))
  return slack_of(tat, now + wait)
end

local function call(gate)
  return gate.policy.breaker and breaker_called(gate)
end

local function still_open(gate)
  if gate.paused_until > now then return denied(gate.paused_until - now, 'paused') end
  if gate.policy.breaker and now < gate.open_until then return denied(gate.open_until - now, 'breaker_open') end
  local cold_until = slots_from(gate)
  if gate.policy.concurrency and now + asked.lead_us < cold_until then return denied(cold_until - now, 'concurrency') end
  if no_slot(gate, asked.token) then return denied(SLOT_RETRY, 'concurrency') end
end

local function report(gate, told)
  if gate.policy.concurrency then redis.call('ZREM', gate.slots, asked.token) end
  local pause_until = told.pause and now + told.pause
  if pause_until then gate.paused_until = math.max(gate.paused_until, pause_until) end
  if told.throttled then sign(gate, pause_until) end
  if told.healthy == true then gate.cause = 0 end
  gate.cause = told.cause or gate.cause
  if not gate.policy.breaker then return end
  if told.healthy == true then
    breaker_told(gate, 1, 0, told.probe)
  elseif told.healthy == false then
    breaker_told(gate, 0, 1, told.probe)
  elseif told.probe then
    gate.probes_out = math.max(gate.probes_out - 1, 0)
  end
end

local function snapshot(gate)
  local free_at = math.max(gate.paused_until, now)
  if gate.policy.rate and gate.tat > 0 then free_at = math.max(free_at, moment_of(gate.policy.rate, gate.tat, now, 1)) end
  free_at = math.max(free_at, gate.policy.breaker and shut_until(gate) or 0)
  return { text(free_at - now), text(gate.paused_until - now), text(factor_of(gate)), text(in_flight(gate)),
    breaker_state(gate), text(gate.cause) }
end

-- The questions

local gates = {}
for index = 1, #KEYS / 2 do gates[index] = load(index) end

if asked.good then
  gates[1].cause = 0
  if gates[1].policy.breaker then breaker_told(gates[1], asked.good, 0, false) end
end

if asked.op == 'acquire' then
  local wait, cold, refused = 0, false, nil
  for place, gate in ipairs(gates) do
    local own, reply = look(gate, place)
    if reply then
      refused = reply
      break
    end
    wait, cold = math.max(wait, own.wait), cold or own.cold
  end
  local slack, probe, confirm = 0, false, cold or wait > FRESH + FRESH_LEADS * asked.lead_us
  if not refused then
    for _, gate in ipairs(gates) do
      slack = math.max(slack, charge(gate, wait))
      probe = call(gate) or probe
      if not confirm then take_slot(gate, now + wait, asked.token, asked.lease_us) end
    end
  end
  for _, gate in ipairs(gates) do save(gate) end
  return refused or { text(now), 'granted', text(wait), text(slack), probe and '1' or '0', confirm and '1' or '0' }
elseif asked.op == 'confirm' then
  local refused
  for _, gate in ipairs(gates) do refused = refused or still_open(gate) end
  if not refused then
    for _, gate in ipairs(gates) do take_slot(gate, now, asked.token, asked.lease_us) end
  end
  for _, gate in ipairs(gates) do
    if gate.known_since ~= gate.was_known_since then save(gate) end
  end
  return refused or { text(now), 'confirmed' }
elseif asked.op == 'report' then
  for place, gate in ipairs(gates) do
    report(gate, asked.told[place])
    save(gate)
  end
  return { text(now), 'reported' }
elseif asked.op == 'hold' then
  for _, gate in ipairs(gates) do
    slots_from(gate)
    for _, token in ipairs(asked.gone) do redis.call('ZREM', gate.slots, token) end
    for _, slot in ipairs(asked.held) do take_slot(gate, now, slot.token, slot.left_us) end
    save(gate)
  end
  return { text(now), 'held' }
else
  local seen = {}
  for index, gate in ipairs(gates) do seen[index] = snapshot(gate) end
  return seen
end
