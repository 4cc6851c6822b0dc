-- The gates of penstock_domain::limit, function by function, kept in Redis for all workers. Look there for the reasons;
-- a test makes both decide the same cases. One call of this script is one decision, and one round trip.
--
-- KEYS     for each gate, the dependency's first: its hash, and the sorted set of its slots (token -> end of its lease)
-- ARGV[1]  what is asked, as JSON: see `Asked` in wire.rs
-- Times are microseconds of this server's clock; 0 stands for none. Replies are strings: Lua's numbers would lose their
-- fractions. All but what an operator sees begin with this server's time.

local MAX_WAIT, FRESH, FRESH_LEADS, SLOT_RETRY = 1e6, 2e3, 3, 5e4
local MARGIN = 25e3
-- Gates that were used more recently are not asked whether the server restarted meanwhile.
local RECENT = 1e5
-- Who has a slot is heard of more often than that.
local SILENT = 5e6
local SLOWEST, PAUSES_TO_CEILING, SOONEST, LATEST = 0.05, 20, 20e6, 300e6
local SIGN_EVERY, SETTLED = 1e6, 5e6
local CUT_LITTLE, CUT_PAUSED, CUT_BLIND = 0.9, 0.75, 0.5
local COURTESY, BEHIND_OTHERS = 2e6, 5e6
local SHORTEST_PAUSE, LONGEST_PAUSE, ONE_AT_A_TIME, BESIDE, UNDO, MOST_DOUBT = 1e6, 300e6, 2, 10e6, 600e6, 8
local ROWS_OWN_AFTER, AWAY, SETTLE, BESIDE_FAILURE, MUCH_BETTER, BY_CHANCE = 60e6, 600e6, 10e6, 2e6, 4, 1e-4
local PART, LATEST_BACK, PROBE_RETRY = 1 / 8, 60e6, 1e6
-- State that nobody used for so long is forgotten, but no pause is (see `save`).
local KEEP_MS = 6 * 3600 * 1000

-- Times, which move when the clock is set back; and what else a gate holds.
local TIMES = { 'tat', 'paused_until', 'since', 'deaf_until', 'before_since', 'before_at', 'clear_at', 'refused_at',
  'refused_since',
  'passed_at', 'trial_until', 'throttle_clean_at', 'window_start', 'bad_at', 'good_at', 'open_until', 'opened_at',
  'probing_since', 'breaker_clean_at', 'away_at', 'known_since', 'used_at' }
local OTHERS = { 'factor', 'ceiling', 'climb', 'before_factor', 'before_ceiling', 'before_climb', 'refusals', 'in_a_row',
  'doubt', 'trial', 'good', 'bad', 'again_good', 'again_bad', 'run', 'probes_out', 'probes_good', 'mixed',
  'slots_mark', 'cause' }
local DEFAULTS = { factor = 1, ceiling = 1, climb = SOONEST }
local FIELDS = { 'server' }
for _, names in ipairs({ TIMES, OTHERS }) do
  for _, name in ipairs(names) do FIELDS[#FIELDS + 1] = name end
end

local asked = cjson.decode(ARGV[1])
local now = asked.now
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1e6 + tonumber(time[2])
end

local function text(number)
  return string.format('%.17g', number)
end

local function is_suspect(past)
  return past ~= 'clean'
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

local function resume_at(gate, at)
  gate.factor = factor_of(gate)
  gate.ceiling = math.min(math.max(gate.ceiling, gate.factor / CUT_LITTLE), 1)
  gate.since = math.max(at, now)
  gate.deaf_until = math.max(gate.since, now + SIGN_EVERY)
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

-- throttle.rs

local function denied(retry_after, reason, row_only)
  return { text(now), 'denied', text(retry_after), reason, row_only and '1' or '0', '0' }
end

local function grown(refusals)
  return math.min(SHORTEST_PAUSE * 2 ^ math.min(refusals - 1, 20), LONGEST_PAUSE)
end

local function paused(gate)
  if gate.paused_until > now then return denied(gate.paused_until - now, 'paused') end
end

local function refused_for(gate)
  return gate.refusals > 0 and gate.refused_at - gate.refused_since or 0
end

local function turn(gate)
  local refused = paused(gate)
  if refused or gate.refusals < ONE_AT_A_TIME then return refused end
  if is_suspect(asked.past) then
    local others_until = math.max(gate.paused_until + COURTESY, gate.throttle_clean_at + BEHIND_OTHERS)
    if now < others_until then return denied(others_until - now, 'paused', true) end
  else
    gate.throttle_clean_at = now
  end
  if now < gate.trial_until then return denied(math.min(gate.trial_until - now, PROBE_RETRY), 'paused') end
end

local function throttle_admits(gate)
  local refused = turn(gate)
  if refused then refused[6] = text(refused_for(gate)) end
  return refused
end

local function throttle_granted(gate, at)
  if gate.refusals < ONE_AT_A_TIME then return false end
  gate.trial, gate.trial_until = tonumber(asked.token), at + asked.lease_us
  return true
end

local function passed(gate, left_at)
  gate.passed_at = math.max(gate.passed_at, left_at)
  gate.in_a_row = 0
  if left_at >= gate.clear_at then gate.refusals, gate.trial, gate.trial_until = 0, 0, 0 end
end

local function is_beside(gate)
  local rate = gate.policy.rate
  local lasting = BESIDE + (rate and 3 * rate.interval_us or 0)
  return gate.passed_at >= gate.clear_at and now - gate.passed_at < lasting
end

local function is_own(gate, past)
  local beside = is_beside(gate)
  if past == 'throttled_alone' then return true end
  if past == 'throttled' then return beside end
  return beside and gate.doubt > 0 and gate.in_a_row <= math.floor(gate.doubt / 2)
end

local function forget_before(gate)
  gate.before_factor, gate.before_ceiling, gate.before_since, gate.before_climb, gate.before_at = 0, 0, 0, 0, 0
end

local function refuted(gate, past)
  if past ~= 'throttled' then return end
  gate.doubt = math.min(gate.doubt + 1, MOST_DOUBT)
  if gate.before_at > 0 then
    gate.factor, gate.ceiling, gate.since, gate.climb =
      gate.before_factor, gate.before_ceiling, gate.before_since, gate.before_climb
    forget_before(gate)
  end
end

local function refused(gate, left_at, pause)
  local is_news = now >= gate.deaf_until and left_at >= gate.refused_at
  if is_news then
    if gate.refusals == 0 then gate.refused_since = now end
    gate.refusals = gate.refusals + 1
    gate.refused_at, gate.clear_at = now, math.max(gate.clear_at, now)
    if gate.refusals > 1 then pause = math.max(pause or 0, grown(gate.refusals)) end
  end
  local pause_until = pause and now + pause
  gate.paused_until = math.max(gate.paused_until, pause_until or 0)
  gate.clear_at = math.max(gate.clear_at, gate.paused_until)
  if is_news and (gate.before_at == 0 or now - gate.before_at > UNDO) then
    gate.before_factor, gate.before_ceiling, gate.before_since, gate.before_climb, gate.before_at =
      gate.factor, gate.ceiling, gate.since, gate.climb, now
  end
  if gate.refusals <= 1 then
    sign(gate, pause_until)
  elseif is_news then
    resume_at(gate, pause_until or now)
  end
end

local function asked_to_wait(gate, past, pause)
  local own = is_own(gate, past == 'failed' and 'throttled' or past)
  gate.in_a_row = gate.in_a_row + 1
  if not own then
    gate.paused_until = math.max(gate.paused_until, now + pause)
    gate.clear_at = math.max(gate.clear_at, gate.paused_until)
  elseif is_suspect(past) then
    gate.doubt = math.min(gate.doubt + 1, MOST_DOUBT)
  end
  return own
end

local function throttle_told(gate, told)
  if gate.trial == tonumber(asked.token) then gate.trial, gate.trial_until = 0, 0 end
  local left_at = now - told.elapsed
  if told.throttled and told.healthy == nil then
    local own = is_own(gate, told.past)
    if told.past ~= 'throttled_alone' then gate.in_a_row = gate.in_a_row + 1 end
    if own then
      refuted(gate, told.past)
    else
      refused(gate, left_at, told.pause)
    end
    return own
  elseif not told.healthy then
    local own = told.pause and asked_to_wait(gate, told.past, told.pause) or false
    if told.throttled and not is_suspect(told.past) then sign(gate) end
    return own
  elseif told.healthy then
    passed(gate, left_at)
    if told.past == 'throttled' then
      gate.doubt = 0
      forget_before(gate)
    end
  end
  return false
end

-- breaker.rs

local function closed_breaker(gate, window_start)
  gate.window_start, gate.good, gate.bad, gate.again_good, gate.again_bad, gate.bad_at = window_start, 0, 0, 0, 0, 0
  gate.run, gate.open_until, gate.opened_at = 0, 0, 0
  gate.probes_out, gate.probes_good, gate.probing_since, gate.breaker_clean_at, gate.away_at = 0, 0, 0, 0, 0
  gate.mixed = 0
end

local function open_breaker(gate, opened_at)
  local clean_at, away_at, mixed = gate.breaker_clean_at, gate.away_at, gate.mixed
  closed_breaker(gate, 0)
  gate.open_until, gate.opened_at = now + gate.policy.breaker.open_for_us, opened_at
  gate.breaker_clean_at, gate.away_at, gate.mixed = clean_at, away_at, mixed
end

local function shut_until(gate)
  if gate.open_until == 0 then return nil end
  if now < gate.open_until then return gate.open_until end
  local patience = gate.probing_since + gate.policy.breaker.open_for_us
  if gate.probes_out >= gate.policy.breaker.probes and now < patience then return math.min(patience, now + PROBE_RETRY) end
  return nil
end

local function are_others_there(gate)
  return gate.breaker_clean_at >= gate.open_until - COURTESY
end

local function is_the_rows_own(gate)
  local is_away = gate.away_at > 0 and now - gate.away_at < ROWS_OWN_AFTER
  return now - gate.opened_at >= (is_away and AWAY or ROWS_OWN_AFTER)
end

local function is_left_to_its_rows(gate)
  return gate.open_until > 0 and is_suspect(asked.past) and not are_others_there(gate) and is_the_rows_own(gate)
end

local function breaker_admits(gate)
  local suspect = is_suspect(asked.past)
  if gate.open_until > 0 and not suspect then gate.breaker_clean_at = now end
  if is_left_to_its_rows(gate) then return nil end
  local shut = shut_until(gate)
  if shut then return denied(shut - now, 'breaker_open') end
  if gate.open_until == 0 or not suspect then return nil end
  local others = are_others_there(gate)
  local others_until = math.max(others and gate.breaker_clean_at + BEHIND_OTHERS or 0, gate.open_until + COURTESY)
  if now >= others_until then return nil end
  local later = math.max(math.min((now - gate.opened_at) * PART, LATEST_BACK), gate.policy.breaker.open_for_us)
  return denied((others and now + later or others_until) - now, 'breaker_open', true)
end

local function breaker_called(gate)
  if gate.open_until == 0 or is_left_to_its_rows(gate) then return false end
  if gate.probes_out >= gate.policy.breaker.probes then gate.probes_out = 0 end
  if gate.probes_out == 0 then gate.probing_since = now end
  gate.probes_out = gate.probes_out + 1
  return true
end

local function whose(gate)
  local again = gate.again_good + gate.again_bad
  if again < math.max(math.floor(gate.policy.breaker.min_calls / 2), 1) then return nil end
  local first_good = gate.good - gate.again_good
  if gate.again_good * (first_good + gate.bad) * MUCH_BETTER < first_good * again then return 'rows' end
  return 'dependency'
end

local function longest_run(gate, whose_fault)
  local least = gate.policy.breaker.min_calls
  local bad, good = math.max(gate.bad - gate.run, 0), gate.good - gate.again_good
  if whose_fault ~= 'rows' or bad == 0 or good == 0 then return least end
  return math.max(least, math.log(BY_CHANCE) / math.log(bad / (bad + good)))
end

local function probed(gate, good, bad, past)
  local policy = gate.policy.breaker
  gate.probes_out = math.max(gate.probes_out - good - bad, 0)
  if good > 0 then
    gate.good_at, gate.run, gate.mixed = now, 0, 1
    gate.probes_good = gate.probes_good + good
    if gate.probes_good >= policy.probes then return closed_breaker(gate, now) end
  end
  if bad == 0 or is_suspect(past) and (are_others_there(gate) or is_the_rows_own(gate)) then return end
  gate.run = gate.run + bad
  local most = gate.mixed == 1 and policy.probes * 2 or policy.probes
  if gate.run >= most then open_breaker(gate, gate.opened_at) end
end

local function breaker_told(gate, good, bad, probe, past, away)
  local policy = gate.policy.breaker
  if away then gate.away_at = now end
  if gate.open_until > 0 then
    if now >= gate.open_until and probe then probed(gate, good, bad, past) end
    return
  end
  if now - gate.window_start > policy.window_us then closed_breaker(gate, now) end
  gate.good = gate.good + good
  if good > 0 then gate.good_at, gate.run = now, 0 end
  local fault = whose(gate)
  if is_suspect(past) then
    gate.again_good, gate.again_bad = gate.again_good + good, gate.again_bad + bad
    if fault ~= 'rows' and now - gate.good_at > BESIDE_FAILURE then gate.run = gate.run + bad end
  else
    gate.bad, gate.run = gate.bad + bad, gate.run + bad
    if bad > 0 and gate.bad_at == 0 then gate.bad_at = now end
  end
  local first = gate.good - gate.again_good + gate.bad
  local share_passed = gate.bad * 10000 >= policy.failure_bp * first
  local shows
  if fault then
    shows = fault == 'dependency'
  else
    shows = gate.good == 0 or now - gate.bad_at >= math.min(SETTLE, policy.window_us / 3)
  end
  local by_share = first >= policy.min_calls and share_passed and shows
  if bad > 0 and (by_share or gate.run >= longest_run(gate, fault)) then open_breaker(gate, now) end
end

local function breaker_state(gate)
  if gate.open_until == 0 then return 'closed' end
  return now < gate.open_until and 'open' or 'half_open'
end

-- gate.rs

-- Whether the server that answers is another one than the gate was used with: what it knows can be older than what had
-- been granted.
local function is_another_server(gate)
  if asked.now or (gate.server and math.abs(now - gate.used_at) < RECENT) then return false end
  local server = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') or ''
  local another = gate.used_at > 0 and gate.server ~= server
  gate.server = server
  return another
end

-- Slots and what is known of them are lost together: the set holds the mark that its hash knows.
local function mark_of(gate)
  return 'mark:' .. text(gate.slots_mark)
end

local function slots_are_whole(gate)
  return gate.slots_mark > 0 and redis.call('ZSCORE', gate.slots, mark_of(gate)) ~= false
end

local function mark_slots(gate)
  redis.call('ZREMRANGEBYSCORE', gate.slots, '+inf', '+inf')
  gate.slots_mark = now
  redis.call('ZADD', gate.slots, '+inf', mark_of(gate))
end

local function times_back(gate, by)
  for _, name in ipairs(TIMES) do
    if gate[name] ~= 0 then gate[name] = gate[name] - by end
  end
end

local function tick(gate)
  local by = gate.used_at - now
  if by <= 0 then
    if gate.policy.concurrency and -by > SILENT
      and redis.call('ZCOUNT', gate.slots, '(' .. text(gate.used_at), '(+inf') > 0 then
      gate.known_since = now
    end
    return
  end
  times_back(gate, by)
  local slots = redis.call('ZRANGE', gate.slots, 0, -1, 'WITHSCORES')
  for place = 1, #slots, 2 do redis.call('ZADD', gate.slots, text(tonumber(slots[place + 1]) - by), slots[place]) end
end

local function load(index)
  local key = KEYS[2 * index - 1]
  local found = redis.call('HMGET', key, unpack(FIELDS))
  local gate = { key = key, slots = KEYS[2 * index], policy = asked.gates[index], server = found[1] or nil, read = {} }
  gate.read.server = gate.server
  for place = 2, #FIELDS do
    local field = FIELDS[place]
    gate[field] = tonumber(found[place] or nil) or DEFAULTS[field] or 0
    gate.read[field] = tonumber(found[place] or nil)
  end
  if asked.op == 'peek' then
    -- Nothing is written: a gate whose clock was set back is shown as it will be.
    gate.behind = math.max(gate.used_at - now, 0)
    times_back(gate, gate.behind)
    return gate
  end
  local lost = is_another_server(gate)
  tick(gate)
  local rate = gate.policy.rate
  if lost and rate and gate.tat > 0 then
    gate.tat = math.max(gate.tat, unknown_at(rate, gate.policy.cold_wait_us))
  end
  if gate.policy.concurrency and (lost or not slots_are_whole(gate)) then
    if gate.known_since > 0 or gate.slots_mark > 0 then gate.known_since = now end
    mark_slots(gate)
  end
  return gate
end

local function save(gate)
  gate.used_at = now
  local values = {}
  for _, field in ipairs(FIELDS) do
    local value = gate[field]
    if value ~= nil and value ~= gate.read[field] then
      values[#values + 1] = field
      values[#values + 1] = type(value) == 'number' and text(value) or value
    end
  end
  if #values > 0 then redis.call('HSET', gate.key, unpack(values)) end
  local keep = KEEP_MS + math.max(math.floor((gate.paused_until - now) / 1000), 0)
  redis.call('PEXPIRE', gate.key, keep)
  if gate.policy.concurrency then redis.call('PEXPIRE', gate.slots, keep) end
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
  return redis.call('ZCOUNT', gate.slots, '(' .. text(now + gate.behind), '(+inf')
end

local function no_slot(gate, token)
  local most = gate.policy.concurrency
  if not most then return false end
  redis.call('ZREMRANGEBYSCORE', gate.slots, '-inf', text(now))
  if redis.call('ZCARD', gate.slots) - 1 < most then return false end
  return not (token and redis.call('ZSCORE', gate.slots, token))
end

local function take_slot(gate, from, token, lease)
  if gate.policy.concurrency then redis.call('ZADD', gate.slots, text(from + lease), token) end
end

local function look(gate, place)
  local wait, cold_until = 0, slots_from(gate)
  if gate.policy.rate then
    wait = moment_of(gate.policy.rate, tat_of(gate), now + asked.lead_us, asked.cost) - now
  end
  local refusal = throttle_admits(gate) or gate.policy.breaker and breaker_admits(gate)
  if refusal then return nil, refusal end
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

local function call(gate, wait)
  local tried = throttle_granted(gate, now + wait)
  return gate.policy.breaker and breaker_called(gate) or tried
end

local function still_open(gate)
  local refusal = paused(gate)
  if refusal then return refusal end
  if gate.policy.breaker and now < gate.open_until and not is_left_to_its_rows(gate) then
    return denied(gate.open_until - now, 'breaker_open')
  end
  local cold_until = slots_from(gate)
  if gate.policy.concurrency and now + asked.lead_us < cold_until then return denied(cold_until - now, 'concurrency') end
  if no_slot(gate, asked.token) then return denied(SLOT_RETRY, 'concurrency') end
end

local function report(gate, told)
  if gate.policy.concurrency then redis.call('ZREM', gate.slots, asked.token) end
  local own = throttle_told(gate, told)
  if told.healthy == true then gate.cause = 0 end
  gate.cause = told.cause or gate.cause
  if gate.policy.breaker then
    if told.healthy ~= nil then
      breaker_told(gate, told.healthy and 1 or 0, told.healthy and 0 or 1, told.probe, told.past, told.away)
    elseif told.probe then
      gate.probes_out = math.max(gate.probes_out - 1, 0)
    end
  end
  return own
end

local function went_well(gate, calls, elapsed)
  passed(gate, now - elapsed)
  gate.cause = 0
  if gate.policy.breaker then breaker_told(gate, calls, 0, false, 'clean') end
end

local function snapshot(gate)
  local free_at = math.max(gate.paused_until, now)
  if gate.policy.rate and gate.tat > 0 then free_at = math.max(free_at, moment_of(gate.policy.rate, gate.tat, now, 1)) end
  free_at = math.max(free_at, gate.policy.breaker and shut_until(gate) or 0)
  return { text(free_at - now), text(gate.paused_until - now), text(gate.refusals), text(factor_of(gate)),
    text(in_flight(gate)), breaker_state(gate), text(gate.cause) }
end

-- The questions

local gates = {}
for index = 1, #KEYS / 2 do gates[index] = load(index) end

if asked.good then
  for _, gate in ipairs(gates) do went_well(gate, asked.good.calls, asked.good.elapsed) end
end

if asked.op == 'acquire' then
  local wait, cold, refusal = 0, false, nil
  for place, gate in ipairs(gates) do
    local own, reply = look(gate, place)
    if reply then
      refusal = reply
      break
    end
    wait, cold = math.max(wait, own.wait), cold or own.cold
  end
  local slack, probe, confirm = 0, false, cold or wait > FRESH + FRESH_LEADS * asked.lead_us
  if not refusal then
    for _, gate in ipairs(gates) do
      slack = math.max(slack, charge(gate, wait))
      probe = call(gate, wait) or probe
      if not confirm then take_slot(gate, now + wait, asked.token, asked.lease_us) end
    end
  end
  for _, gate in ipairs(gates) do save(gate) end
  return refusal or { text(now), 'granted', text(wait), text(slack), probe and '1' or '0', confirm and '1' or '0' }
elseif asked.op == 'confirm' then
  local refusal
  for _, gate in ipairs(gates) do refusal = refusal or still_open(gate) end
  if not refusal then
    for _, gate in ipairs(gates) do take_slot(gate, now, asked.token, asked.lease_us) end
  end
  for _, gate in ipairs(gates) do save(gate) end
  return refusal or { text(now), 'confirmed' }
elseif asked.op == 'report' then
  local own = false
  for place, gate in ipairs(gates) do
    own = report(gate, asked.told[place]) or own
    save(gate)
  end
  return { text(now), 'reported', own and '1' or '0' }
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
