-- The limiter state of penstock_domain::limit, function by function, kept in Redis for all workers. Look there for the reasons;
-- a test makes both decide the same cases. One call of this script decides a group of requests of one dependency, one after
-- another at one moment: each state is read once and written once, however many calls ask.
--
-- KEYS     for each state its hash, and the sorted set of its slots (token -> end of its lease); then for each further limit
--          (meter.rs): the sorted sets of its members' arrival times, and of their next turns; of a limit by the calendar twice
--          the hash of its present period
-- ARGV[1]  what is asked, as JSON: see `ScriptGroup` in wire.rs. States and meters name their keys by the place of the first.
-- Times are microseconds of this server's clock; 0 stands for none. Replies are strings: Lua's numbers would lose their
-- fractions. All but what an operator sees begin with this server's time.

local MAX_WAIT, FRESH, FRESH_LEADS, SLOT_RETRY = 1e6, 2e3, 3, 5e4
local MARGIN = 25e3
-- For states that were used more recently nobody asks whether the server restarted meanwhile.
local RECENT = 1e5
-- A slot that is taken is reported again more often than this.
local SILENT = 5e6
local SLOWEST, PAUSES_TO_CEILING, SOONEST, LATEST = 0.05, 20, 20e6, 300e6
local SIGN_EVERY, SETTLED = 1e6, 5e6
local CUT_LITTLE, CUT_PAUSED, CUT_BLIND = 0.9, 0.75, 0.5
local COURTESY, BEHIND_OTHERS = 2e6, 5e6
local SHORTEST_PAUSE, LONGEST_PAUSE, ONE_AT_A_TIME, BESIDE, UNDO, MOST_DOUBT = 1e6, 300e6, 2, 10e6, 600e6, 8
local ROWS_OWN_AFTER, AWAY, SETTLE, BESIDE_FAILURE, MUCH_BETTER, BY_CHANCE = 60e6, 600e6, 10e6, 2e6, 4, 1e-4
local AHEAD, MOST_OWED, MOST_LIVE = 5e3, 31 * 86400e6, 100000
local GUARD_AFTER, GUARD_BEFORE = 100e3, 100e3
local PART, LATEST_BACK, PROBE_RETRY = 1 / 8, 60e6, 1e6
-- State that nobody used for so long is forgotten, but no pause is (see `save`).
local KEEP_MS = 6 * 3600 * 1000

-- Times, which move when the clock is set back; and what else a state holds. They are names of stored fields.
local TIMES = { 'tat', 'paused_until', 'since', 'deaf_until', 'before_since', 'before_at', 'clear_at', 'refused_at',
  'refused_since',
  'passed_at', 'trial_until', 'throttle_clean_at', 'window_start', 'bad_at', 'good_at', 'open_until', 'opened_at',
  'probing_since', 'breaker_clean_at', 'away_at', 'known_since', 'used_at', 'lost_at', 'uncounted_at' }
local OTHERS = { 'factor', 'ceiling', 'climb', 'before_factor', 'before_ceiling', 'before_climb', 'refusals', 'in_a_row',
  'doubt', 'trial', 'good', 'bad', 'again_good', 'again_bad', 'run', 'probes_out', 'probes_good', 'mixed',
  'slots_mark', 'cause' }
local DEFAULTS = { factor = 1, ceiling = 1, climb = SOONEST }
-- A field that is not stored is 0, or this; it is read when it is first needed. `stored` is what Redis has.
local FIELDS = { __index = function(state, name)
  local value = tonumber(state.stored[name]) or DEFAULTS[name] or 0
  state[name] = value
  return value
end }

local group = cjson.decode(ARGV[1])
local now = group.now
-- The request that is decided at present.
local asked
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1e6 + tonumber(time[2])
end

-- Whole numbers are written much quicker than fractions.
local function text(number)
  if number % 1 == 0 and math.abs(number) < 2 ^ 53 then return string.format('%d', number) end
  return string.format('%.17g', number)
end
local now_text = text(now)

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

local function unknown_at(rate, cold_wait, since)
  return empty_at(rate, since + math.max(cold_wait, rate.interval_us - MARGIN))
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

-- adaptive_rate.rs

local function factor_of(state)
  local left = 1 - math.max(now - state.since, 0) / state.climb
  return math.min(state.ceiling - (state.ceiling - state.factor) * left * left * left, 1)
end

local function mean_of(state)
  local passed = now - state.since
  local left = 1 - passed / state.climb
  local under = (1 - left * left * left * left) / 4 * state.climb / passed
  return math.min(state.ceiling - (state.ceiling - state.factor) * under, 1)
end

local function resume_at(state, at)
  state.factor = factor_of(state)
  state.ceiling = math.min(math.max(state.ceiling, state.factor / CUT_LITTLE), 1)
  state.since = math.max(at, now)
  state.deaf_until = math.max(state.since, now + SIGN_EVERY)
end

local function on_throttled(state, pause_until)
  if now < state.deaf_until then return end
  local ceiling = factor_of(state)
  local first = state.since == 0 or ceiling >= 1
  local cut
  if not first and now - state.since >= SETTLED then
    ceiling, cut = mean_of(state), CUT_LITTLE
  elseif not pause_until then
    cut = CUT_BLIND
  else
    cut = first and CUT_LITTLE or CUT_PAUSED
  end
  state.since = math.max(pause_until or now, now)
  state.factor = math.max(ceiling * cut, SLOWEST)
  state.ceiling = math.max(ceiling, state.factor / CUT_LITTLE)
  state.deaf_until = math.max(state.since, now + SIGN_EVERY)
  state.climb = math.min(math.max((state.since - now) * PAUSES_TO_CEILING, SOONEST), LATEST)
end

-- throttle.rs

local function denied(retry_after, reason, row_only)
  return { now_text, 'denied', text(retry_after), reason, row_only and '1' or '0', '0' }
end

local function grown(refusals)
  return math.min(SHORTEST_PAUSE * 2 ^ math.min(refusals - 1, 20), LONGEST_PAUSE)
end

local function paused(state)
  if state.paused_until > now then return denied(state.paused_until - now, 'paused') end
end

local function refused_for(state)
  return state.refusals > 0 and state.refused_at - state.refused_since or 0
end

local function turn(state)
  local refused = paused(state)
  if refused or state.refusals < ONE_AT_A_TIME then return refused end
  if is_suspect(asked.past) then
    local others_until = math.max(state.paused_until + COURTESY, state.throttle_clean_at + BEHIND_OTHERS)
    if now < others_until then return denied(others_until - now, 'paused', true) end
  else
    state.throttle_clean_at = now
  end
  if now < state.trial_until then return denied(math.min(state.trial_until - now, PROBE_RETRY), 'paused') end
end

local function throttle_admits(state)
  local refused = turn(state)
  if refused then refused[6] = text(refused_for(state)) end
  return refused
end

local function throttle_granted(state, at)
  if state.refusals < ONE_AT_A_TIME then return false end
  state.trial, state.trial_until = tonumber(asked.token), at + asked.lease_us
  return true
end

local function passed(state, left_at)
  state.passed_at = math.max(state.passed_at, left_at)
  state.in_a_row = 0
  if left_at >= state.clear_at then state.refusals, state.trial, state.trial_until = 0, 0, 0 end
end

local function is_beside(state)
  local rate = state.policy.rate
  local lasting = BESIDE + (rate and 3 * rate.interval_us or 0)
  return state.passed_at >= state.clear_at and now - state.passed_at < lasting
end

local function is_own(state, past)
  local beside = is_beside(state)
  if past == 'throttled_alone' then return true end
  if past == 'throttled' then return beside end
  return beside and state.doubt > 0 and state.in_a_row <= math.floor(state.doubt / 2)
end

local function forget_before(state)
  state.before_factor, state.before_ceiling, state.before_since, state.before_climb, state.before_at = 0, 0, 0, 0, 0
end

local function refuted(state, past)
  if past ~= 'throttled' then return end
  state.doubt = math.min(state.doubt + 1, MOST_DOUBT)
  if state.before_at > 0 then
    state.factor, state.ceiling, state.since, state.climb =
      state.before_factor, state.before_ceiling, state.before_since, state.before_climb
    forget_before(state)
  end
end

local function refused(state, left_at, pause)
  local is_news = now >= state.deaf_until and left_at >= state.refused_at
  if is_news then
    if state.refusals == 0 then state.refused_since = now end
    state.refusals = state.refusals + 1
    state.refused_at, state.clear_at = now, math.max(state.clear_at, now)
    if state.refusals > 1 then pause = math.max(pause or 0, grown(state.refusals)) end
  end
  local pause_until = pause and now + pause
  state.paused_until = math.max(state.paused_until, pause_until or 0)
  state.clear_at = math.max(state.clear_at, state.paused_until)
  if is_news and (state.before_at == 0 or now - state.before_at > UNDO) then
    state.before_factor, state.before_ceiling, state.before_since, state.before_climb, state.before_at =
      state.factor, state.ceiling, state.since, state.climb, now
  end
  if state.refusals <= 1 then
    on_throttled(state, pause_until)
  elseif is_news then
    resume_at(state, pause_until or now)
  end
end

local function asked_to_wait(state, past, pause)
  local own = is_own(state, past == 'failed' and 'throttled' or past)
  state.in_a_row = state.in_a_row + 1
  if not own then
    state.paused_until = math.max(state.paused_until, now + pause)
    state.clear_at = math.max(state.clear_at, state.paused_until)
  elseif is_suspect(past) then
    state.doubt = math.min(state.doubt + 1, MOST_DOUBT)
  end
  return own
end

local function throttle_reported(state, feedback)
  if state.trial == tonumber(asked.token) then state.trial, state.trial_until = 0, 0 end
  local left_at = now - (feedback.elapsed or 0)
  if feedback.throttled and feedback.healthy == nil then
    local own = is_own(state, feedback.past)
    if feedback.past ~= 'throttled_alone' then state.in_a_row = state.in_a_row + 1 end
    if own then
      refuted(state, feedback.past)
    else
      refused(state, left_at, feedback.pause)
    end
    return own
  elseif not feedback.healthy then
    local own = feedback.pause and asked_to_wait(state, feedback.past, feedback.pause) or false
    if feedback.throttled and not is_suspect(feedback.past) then on_throttled(state) end
    return own
  elseif feedback.healthy then
    passed(state, left_at)
    if feedback.past == 'throttled' then
      state.doubt = 0
      forget_before(state)
    end
  end
  return false
end

-- breaker.rs

local function closed_breaker(state, window_start)
  state.window_start, state.good, state.bad, state.again_good, state.again_bad, state.bad_at = window_start, 0, 0, 0, 0, 0
  state.run, state.open_until, state.opened_at = 0, 0, 0
  state.probes_out, state.probes_good, state.probing_since, state.breaker_clean_at, state.away_at = 0, 0, 0, 0, 0
  state.mixed = 0
end

local function open_breaker(state, opened_at)
  local clean_at, away_at, mixed = state.breaker_clean_at, state.away_at, state.mixed
  closed_breaker(state, 0)
  state.open_until, state.opened_at = now + state.policy.breaker.open_for_us, opened_at
  state.breaker_clean_at, state.away_at, state.mixed = clean_at, away_at, mixed
end

local function shut_until(state)
  if state.open_until == 0 then return nil end
  if now < state.open_until then return state.open_until end
  local patience = state.probing_since + state.policy.breaker.open_for_us
  if state.probes_out >= state.policy.breaker.probes and now < patience then return math.min(patience, now + PROBE_RETRY) end
  return nil
end

local function are_others_there(state)
  return state.breaker_clean_at >= state.open_until - COURTESY
end

local function is_the_rows_own(state)
  local is_away = state.away_at > 0 and now - state.away_at < ROWS_OWN_AFTER
  return now - state.opened_at >= (is_away and AWAY or ROWS_OWN_AFTER)
end

local function is_left_to_its_rows(state)
  return state.open_until > 0 and is_suspect(asked.past) and not are_others_there(state) and is_the_rows_own(state)
end

local function breaker_admits(state)
  local suspect = is_suspect(asked.past)
  if state.open_until > 0 and not suspect then state.breaker_clean_at = now end
  if is_left_to_its_rows(state) then return nil end
  local shut = shut_until(state)
  if shut then return denied(shut - now, 'breaker_open') end
  if state.open_until == 0 or not suspect then return nil end
  local others = are_others_there(state)
  local others_until = math.max(others and state.breaker_clean_at + BEHIND_OTHERS or 0, state.open_until + COURTESY)
  if now >= others_until then return nil end
  local later = math.max(math.min((now - state.opened_at) * PART, LATEST_BACK), state.policy.breaker.open_for_us)
  return denied((others and now + later or others_until) - now, 'breaker_open', true)
end

local function breaker_called(state)
  if state.open_until == 0 or is_left_to_its_rows(state) then return false end
  if state.probes_out >= state.policy.breaker.probes then state.probes_out = 0 end
  if state.probes_out == 0 then state.probing_since = now end
  state.probes_out = state.probes_out + 1
  return true
end

local function whose(state)
  local again = state.again_good + state.again_bad
  if again < math.max(math.floor(state.policy.breaker.min_calls / 2), 1) then return nil end
  local first_good = state.good - state.again_good
  if state.again_good * (first_good + state.bad) * MUCH_BETTER < first_good * again then return 'rows' end
  return 'dependency'
end

local function longest_run(state, whose_fault)
  local least = state.policy.breaker.min_calls
  local bad, good = math.max(state.bad - state.run, 0), state.good - state.again_good
  if whose_fault ~= 'rows' or bad == 0 or good == 0 then return least end
  return math.max(least, math.log(BY_CHANCE) / math.log(bad / (bad + good)))
end

local function probed(state, good, bad, past)
  local policy = state.policy.breaker
  state.probes_out = math.max(state.probes_out - good - bad, 0)
  if good > 0 then
    state.good_at, state.run, state.mixed = now, 0, 1
    state.probes_good = state.probes_good + good
    if state.probes_good >= policy.probes then return closed_breaker(state, now) end
  end
  if bad == 0 or is_suspect(past) and (are_others_there(state) or is_the_rows_own(state)) then return end
  state.run = state.run + bad
  local most = state.mixed == 1 and policy.probes * 2 or policy.probes
  if state.run >= most then open_breaker(state, state.opened_at) end
end

local function breaker_reported(state, good, bad, probe, past, away)
  local policy = state.policy.breaker
  if away then state.away_at = now end
  if state.open_until > 0 then
    if now >= state.open_until and probe then probed(state, good, bad, past) end
    return
  end
  if now - state.window_start > policy.window_us then closed_breaker(state, now) end
  state.good = state.good + good
  if good > 0 then state.good_at, state.run = now, 0 end
  local fault = whose(state)
  if is_suspect(past) then
    state.again_good, state.again_bad = state.again_good + good, state.again_bad + bad
    if fault ~= 'rows' and now - state.good_at > BESIDE_FAILURE then state.run = state.run + bad end
  else
    state.bad, state.run = state.bad + bad, state.run + bad
    if bad > 0 and state.bad_at == 0 then state.bad_at = now end
  end
  local first = state.good - state.again_good + state.bad
  local share_passed = state.bad * 10000 >= policy.failure_bp * first
  local shows
  if fault then
    shows = fault == 'dependency'
  else
    shows = state.good == 0 or now - state.bad_at >= math.min(SETTLE, policy.window_us / 3)
  end
  local by_share = first >= policy.min_calls and share_passed and shows
  if bad > 0 and (by_share or state.run >= longest_run(state, fault)) then open_breaker(state, now) end
end

local function breaker_state(state)
  if state.open_until == 0 then return 'closed' end
  return now < state.open_until and 'open' or 'half_open'
end

-- state.rs

-- Whether the server that answers is not the one that the state was used with: what it knows can be older than what had
-- been granted. Without the right to ask which server it is, that is not known: a restart from an older snapshot goes unnoticed.
local function is_another_server(state)
  if group.now or (state.server ~= '' and math.abs(now - state.used_at) < RECENT) then return false end
  local info = redis.pcall('INFO', 'server')
  local server = type(info) == 'string' and string.match(info, 'run_id:(%w+)') or ''
  if server == '' then return false end
  local another = state.used_at > 0 and state.server ~= server
  state.server = server
  return another
end

-- Slots and what is known of them are lost together: the set holds the mark that its hash knows.
local function mark_of(state)
  return 'mark:' .. text(state.slots_mark)
end

local function slots_are_whole(state)
  return state.slots_mark > 0 and redis.call('ZSCORE', state.slots, mark_of(state)) ~= false
end

local function mark_slots(state)
  redis.call('ZREMRANGEBYSCORE', state.slots, '+inf', '+inf')
  state.slots_mark, state.is_marked = now, true
  redis.call('ZADD', state.slots, '+inf', mark_of(state))
end

local function times_back(state, by)
  for _, name in ipairs(TIMES) do
    if state[name] ~= 0 then state[name] = state[name] - by end
  end
end

local function tick(state, lost)
  if state.used_at == 0 or lost then state.lost_at = now end
  local by = state.used_at - now
  if by <= 0 then
    if state.policy.concurrency and -by > SILENT
      and redis.call('ZCOUNT', state.slots, '(' .. text(state.used_at), '(+inf') > 0 then
      state.known_since = now
    end
    return
  end
  times_back(state, by)
  local slots = redis.call('ZRANGE', state.slots, 0, -1, 'WITHSCORES')
  for place = 1, #slots, 2 do redis.call('ZADD', state.slots, text(tonumber(slots[place + 1]) - by), slots[place]) end
end

local function load(place, policy)
  local key = KEYS[place]
  local found, stored = redis.call('HGETALL', key), {}
  for at = 1, #found, 2 do stored[found[at]] = found[at + 1] end
  -- What is no field has a value from the start.
  local state = { key = key, slots = KEYS[place + 1], policy = policy, stored = stored, server = stored.server or '',
    behind = 0, taken = false, is_changed = false, is_marked = false }
  setmetatable(state, FIELDS)
  if asked.op == 'peek' then
    -- Nothing is written: a state whose clock was set back is shown as it will be.
    state.behind = math.max(state.used_at - now, 0)
    times_back(state, state.behind)
    return state
  end
  local lost = is_another_server(state)
  tick(state, lost)
  local rate = state.policy.rate
  if lost and rate and state.tat > 0 then
    state.tat = math.max(state.tat, unknown_at(rate, state.policy.cold_wait_us, now))
  end
  if state.policy.concurrency and (lost or not slots_are_whole(state)) then
    if state.known_since > 0 or state.slots_mark > 0 then state.known_since = now end
    mark_slots(state)
  end
  return state
end

-- Whether a state and its slots are to be kept for longer: about once a minute, and for each pause, or wait for a slow rate, that is longer.
local function is_kept_longer(state, was_used_at)
  local minute = 60e6
  return math.floor(now / minute) ~= math.floor(was_used_at / minute) or state.paused_until > now
    or state.tat - now > minute
end

local function save(state)
  local was_used_at = tonumber(state.stored.used_at) or 0
  state.used_at = now
  local values = {}
  for _, names in ipairs({ TIMES, OTHERS }) do
    for _, name in ipairs(names) do
      local value = rawget(state, name)
      if value and value ~= (tonumber(state.stored[name]) or DEFAULTS[name] or 0) then
        values[#values + 1] = name
        values[#values + 1] = text(value)
      end
    end
  end
  if state.server ~= (state.stored.server or '') then
    values[#values + 1] = 'server'
    values[#values + 1] = state.server
  end
  if #values > 0 then redis.call('HSET', state.key, unpack(values)) end
  if not is_kept_longer(state, was_used_at) and not state.is_marked then return end
  local keep = KEEP_MS + math.max(math.floor((math.max(state.paused_until, state.tat) - now) / 1000), 0)
  redis.call('PEXPIRE', state.key, keep)
  if state.policy.concurrency then redis.call('PEXPIRE', state.slots, keep) end
end

local function tat_of(state)
  local rate, tat = state.policy.rate, state.tat
  if tat == 0 then
    local since = math.max(state.lost_at, state.uncounted_at)
    if since > 0 then tat = unknown_at(rate, state.policy.cold_wait_us, since) end
  end
  tat = math.min(tat, furthest(rate))
  if state.paused_until > 0 then return math.max(tat, empty_at(rate, state.paused_until)) end
  return tat
end

local function slots_from(state)
  if state.known_since == 0 then state.known_since = now end
  return state.known_since + state.policy.cold_wait_us
end

local function in_flight(state)
  return redis.call('ZCOUNT', state.slots, '(' .. text(now + state.behind), '(+inf')
end

local function no_slot(state, token)
  local most = state.policy.concurrency
  if not most then return false end
  if not state.taken then
    redis.call('ZREMRANGEBYSCORE', state.slots, '-inf', text(now))
    -- One member is the mark.
    state.taken = redis.call('ZCARD', state.slots) - 1
  end
  if state.taken < most then return false end
  return not (token and redis.call('ZSCORE', state.slots, token))
end

-- `taken` is counted once for a group, and then follows what the group takes and returns.
local function take_slot(state, from, token, lease)
  if not state.policy.concurrency then return end
  local added = redis.call('ZADD', state.slots, text(from + lease), token)
  if state.taken then state.taken = state.taken + added end
end

local function return_slots(state, tokens)
  if not state.policy.concurrency or #tokens == 0 then return end
  local removed = redis.call('ZREM', state.slots, unpack(tokens))
  if state.taken then state.taken = state.taken - removed end
end

local function look(state, place)
  local wait, cold_until = 0, slots_from(state)
  if state.policy.rate then
    local cost = math.min(asked.cost, state.policy.rate.burst)
    wait = moment_of(state.policy.rate, tat_of(state), now + asked.lead_us, cost) - now
  end
  local refusal = throttle_admits(state) or state.policy.breaker and breaker_admits(state)
  if refusal then return nil, refusal end
  if no_slot(state) then return nil, denied(SLOT_RETRY, 'concurrency') end
  if wait > MAX_WAIT then return nil, denied(wait, place == 1 and 'rate' or 'owner_rate') end
  local cold = state.policy.concurrency and now < cold_until
  if cold then wait = math.max(wait, cold_until - now) end
  return { wait = wait, cold = cold }
end

local function charge(state, wait)
  local rate = state.policy.rate
  if not rate then
    state.uncounted_at = now + wait
    return math.huge
  end
  local tat = tat_of(state)
  state.tat = charged(rate, tat, now + wait, asked.cost, factor_of(state))
  return slack_of(tat, now + wait)
end

local function call(state, wait)
  local tried = throttle_granted(state, now + wait)
  return state.policy.breaker and breaker_called(state) or tried
end

local function still_open(state)
  local refusal = paused(state)
  if refusal then return refusal end
  if state.policy.breaker and now < state.open_until and not is_left_to_its_rows(state) then
    return denied(state.open_until - now, 'breaker_open')
  end
  local cold_until = slots_from(state)
  if state.policy.concurrency and now + asked.lead_us < cold_until then return denied(cold_until - now, 'concurrency') end
  if no_slot(state, asked.token) then return denied(SLOT_RETRY, 'concurrency') end
end

local function report(state, feedback)
  return_slots(state, { asked.token })
  local own = throttle_reported(state, feedback)
  if feedback.healthy == true then state.cause = 0 end
  state.cause = feedback.cause or state.cause
  if state.policy.breaker then
    if feedback.healthy ~= nil then
      breaker_reported(state, feedback.healthy and 1 or 0, feedback.healthy and 0 or 1, feedback.probe, feedback.past, feedback.unreachable)
    elseif feedback.probe then
      state.probes_out = math.max(state.probes_out - 1, 0)
    end
  end
  return own
end

local function went_well(state, calls, elapsed)
  passed(state, now - elapsed)
  state.cause = 0
  if state.policy.breaker then breaker_reported(state, calls, 0, false, 'clean') end
end

local function snapshot(state)
  local free_at = math.max(state.paused_until, now)
  if state.policy.rate then free_at = math.max(free_at, moment_of(state.policy.rate, tat_of(state), now, 1)) end
  free_at = math.max(free_at, state.policy.breaker and shut_until(state) or 0)
  return { text(free_at - now), text(state.paused_until - now), text(state.refusals), text(factor_of(state)),
    text(in_flight(state)), breaker_state(state), text(state.cause), '0' }
end

-- meter.rs

-- What the dependency's state tells its meters.
local whole

-- A calendar's present period: a member's fields, in one hash for all of them.
local CALENDAR_FIELDS = { 'used', 'reserved', 'none_left', 'tat', 'turns' }

local function field_of(meter, name)
  return name .. ':' .. meter.member
end

local function load_meters()
  local meters = {}
  for index, meter in ipairs(asked.meters or {}) do
    meter.key, meter.turns_key = KEYS[meter.keys], KEYS[meter.keys + 1]
    if meter.calendar then
      local fields = {}
      for place, name in ipairs(CALENDAR_FIELDS) do fields[place] = field_of(meter, name) end
      local found = redis.call('HMGET', meter.key, unpack(fields))
      for place, name in ipairs(CALENDAR_FIELDS) do meter[name] = tonumber(found[place] or 0) end
      meter.is_known = found[1] ~= false or found[2] ~= false or found[3] ~= false
    else
      meter.tat = tonumber(redis.call('ZSCORE', meter.key, meter.member) or 0)
      meter.is_known = meter.tat > 0
    end
    meters[index] = meter
  end
  return meters
end

local function save_calendar(meter)
  local values = {}
  for _, name in ipairs(CALENDAR_FIELDS) do
    values[#values + 1] = field_of(meter, name)
    values[#values + 1] = text(meter[name])
  end
  redis.call('HSET', meter.key, unpack(values))
  redis.call('PEXPIRE', meter.key, math.max(math.floor((meter.calendar['until'] - now) / 1000), 0) + KEEP_MS)
end

local function meter_tat(meter)
  local tat = math.min(meter.tat, now + MOST_OWED)
  if whole.lost_at > 0 then tat = math.max(tat, unknown_at(meter.rate, whole.policy.cold_wait_us, whole.lost_at)) end
  if meter.scope == 'all' and whole.paused_until > 0 then tat = math.max(tat, empty_at(meter.rate, whole.paused_until)) end
  return tat
end

local function next_of(calendar)
  return calendar['until'] + GUARD_AFTER
end

local function spread_interval(calendar)
  local length = calendar['until'] - calendar.from - GUARD_AFTER - GUARD_BEFORE
  return math.max(length, 0) / math.max(calendar.limit, 1)
end

local function needed_of(meter)
  return meter.used + math.min(meter.cost, meter.calendar.limit)
end

local function calendar_moment(meter, soonest)
  local calendar, needed = meter.calendar, needed_of(meter)
  soonest = math.max(soonest, calendar.from + GUARD_AFTER, calendar.spread and meter.tat or 0)
  local used_up = needed > calendar.limit or (needed > meter.reserved and meter.none_left >= calendar.limit)
  if used_up or soonest > calendar['until'] - GUARD_BEFORE then return next_of(calendar) end
  return soonest
end

local function meter_wait(meter)
  if meter.calendar then return calendar_moment(meter, now + asked.lead_us) - now end
  local cost = math.min(meter.cost, meter.rate.burst)
  return moment_of(meter.rate, meter_tat(meter), now + asked.lead_us, cost) - now
end

local function keep_until_full(key, score)
  -- A set is as old as its last full member.
  local last = redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')[2]
  redis.call('PEXPIRE', key, KEEP_MS + math.floor(math.max(tonumber(last or score) - now, 0) / 1000))
end

-- A few members that are full again make room for each one that is not.
local function forget_full(key)
  local full = redis.call('ZRANGEBYSCORE', key, '-inf', text(now), 'LIMIT', 0, 4)
  if #full > 0 then redis.call('ZREM', key, unpack(full)) end
end

-- What a call that is corrected later was charged to, and the latest moment of all such calls: beside the turns, and forgotten as they
-- are when they are of no use any more.
local function due_of(meter)
  return string.format('due %.0f', meter.corrected)
end

local function charge_calendar(meter, at)
  local calendar = meter.calendar
  meter.used = needed_of(meter)
  local slack = math.max(calendar['until'] - GUARD_BEFORE - at, 0)
  if calendar.spread then
    slack = 0
    meter.tat = math.max(meter.tat, at) + meter.cost * spread_interval(calendar)
  end
  save_calendar(meter)
  return slack
end

local function charge_meter(meter, wait)
  if meter.calendar then return charge_calendar(meter, now + wait) end
  local tat = meter_tat(meter)
  local factor = meter.scope == 'all' and factor_of(whole) or 1
  local charged_to = charged(meter.rate, tat, now + wait, meter.cost, factor)
  forget_full(meter.key)
  redis.call('ZADD', meter.key, text(charged_to), meter.member)
  keep_until_full(meter.key, charged_to)
  if meter.corrected then
    forget_full(meter.turns_key)
    redis.call('ZADD', meter.turns_key, text(charged_to), due_of(meter))
    redis.call('ZADD', meter.turns_key, 'GT', text(now + wait), 'last ' .. meter.member)
    keep_until_full(meter.turns_key, charged_to)
  end
  return slack_of(tat, now + wait)
end

local function take_turn(meter, wait)
  local cost = math.max(meter.cost, 1)
  if meter.calendar then
    local periods = math.floor(meter.turns / math.max(meter.calendar.limit, 1))
    meter.turns = meter.turns + cost
    save_calendar(meter)
    return math.min(wait + periods * (meter.calendar['until'] - meter.calendar.from), MOST_OWED)
  end
  local stored = tonumber(redis.call('ZSCORE', meter.turns_key, meter.member) or 0)
  local turn = math.max(math.min(stored, now + MOST_OWED), now + wait)
  forget_full(meter.turns_key)
  redis.call('ZADD', meter.turns_key, text(turn + cost * meter.rate.interval_us), meter.member)
  keep_until_full(meter.turns_key, turn)
  return turn - now
end

local function correct_meter(meter)
  if meter.calendar then
    meter.used = math.max(meter.used - math.min(meter.cost, meter.calendar.limit) + meter.actual, 0)
    return save_calendar(meter)
  end
  local due = redis.call('ZSCORE', meter.turns_key, due_of(meter))
  redis.call('ZREM', meter.turns_key, due_of(meter))
  local last_at = tonumber(redis.call('ZSCORE', meter.turns_key, 'last ' .. meter.member) or 0)
  local more = (meter.actual - meter.cost) * meter.rate.interval_us
  local missing = due and tonumber(due) - math.max(now, last_at) or 0
  local owed = more > 0 and math.max(meter.tat, now) or meter.tat
  local corrected_to = owed + math.max(more, -math.max(missing, 0))
  if corrected_to <= now then
    redis.call('ZREM', meter.key, meter.member)
  else
    redis.call('ZADD', meter.key, text(corrected_to), meter.member)
    keep_until_full(meter.key, corrected_to)
  end
end

local REASONS = { all = 'rate', named = 'rate', owner = 'owner_rate', value = 'value_rate' }

-- When there are too many values that are not full again, a further one waits until the next one is.
local function no_room(meter)
  if meter.scope ~= 'value' or meter.is_known then return nil end
  if meter.calendar then
    if redis.call('HLEN', meter.key) < MOST_LIVE * #CALENDAR_FIELDS then return nil end
    return next_of(meter.calendar) - now
  end
  if redis.call('ZCARD', meter.key) < MOST_LIVE then return nil end
  redis.call('ZREMRANGEBYSCORE', meter.key, '-inf', text(now))
  if redis.call('ZCARD', meter.key) < MOST_LIVE then return nil end
  local first = redis.call('ZRANGE', meter.key, 0, 0, 'WITHSCORES')[2]
  return math.max(tonumber(first) - now, SLOT_RETRY)
end

local function look_at_meters(meters, wait)
  local shared, own, longest = wait, nil, 0
  for _, meter in ipairs(meters) do
    local its = meter_wait(meter)
    if meter.scope == 'all' then
      shared = math.max(shared, its)
    elseif not own or its > longest then
      own, longest = meter, its
    end
  end
  if shared > MAX_WAIT then return nil, denied(shared, 'rate') end
  if own and longest > math.max(shared, asked.lead_us) + AHEAD then
    local retry_after
    if longest > (asked.patience_us or 0) then
      retry_after = take_turn(own, longest)
    else
      retry_after = longest - AHEAD / 2
    end
    return nil, denied(retry_after, REASONS[own.scope], true)
  end
  for _, meter in ipairs(meters) do
    local full_in = no_room(meter)
    if full_in then return nil, denied(full_in, REASONS[meter.scope], true) end
  end
  wait = math.max(shared, longest)
  for _, meter in ipairs(meters) do
    if meter.calendar and now + wait > meter.calendar['until'] - GUARD_BEFORE then
      return nil, denied(next_of(meter.calendar) - now, REASONS[meter.scope], meter.scope ~= 'all')
    end
  end
  for place, meter in ipairs(meters) do
    if meter.calendar and needed_of(meter) > meter.reserved then
      return nil, { now_text, 'unreserved', tostring(place - 1) }
    end
  end
  return wait
end

-- The requests

local requests = {}

function requests.acquire(states, meters)
  local wait, cold, refusal = 0, false, nil
  for place, state in ipairs(states) do
    state.lost_at = whole.lost_at
    local own, reply = look(state, place)
    if reply then
      refusal = reply
      break
    end
    wait, cold = math.max(wait, own.wait), cold or own.cold
  end
  if not refusal and #meters > 0 then
    local all
    all, refusal = look_at_meters(meters, wait)
    wait = all or wait
  end
  if refusal then return refusal end
  local slack, probe, confirm = math.huge, false, cold or wait > FRESH + FRESH_LEADS * asked.lead_us
  for _, state in ipairs(states) do
    slack = math.min(slack, charge(state, wait))
    probe = call(state, wait) or probe
    if not confirm then take_slot(state, now + wait, asked.token, asked.lease_us) end
  end
  for _, meter in ipairs(meters) do slack = math.min(slack, charge_meter(meter, wait)) end
  if slack == math.huge then slack = 0 end
  return { now_text, 'granted', text(wait), text(slack), probe and '1' or '0', confirm and '1' or '0' }
end

function requests.confirm(states)
  for _, state in ipairs(states) do
    local refusal = still_open(state)
    if refusal then return refusal end
  end
  for _, state in ipairs(states) do take_slot(state, now, asked.token, asked.lease_us) end
  return { now_text, 'confirmed' }
end

function requests.report(states)
  local own = false
  for place, state in ipairs(states) do
    local feedback = asked.reports[place]
    feedback.past = feedback.past or 'clean'
    own = report(state, feedback) or own
  end
  return { now_text, 'reported', own and '1' or '0' }
end

-- Slots of calls that went well, or were not made. How well is in `good`.
function requests.returned(states)
  for _, state in ipairs(states) do return_slots(state, asked.returned) end
  return { now_text, 'returned' }
end

function requests.hold(states)
  for _, state in ipairs(states) do
    slots_from(state)
    return_slots(state, asked.released)
    for _, slot in ipairs(asked.held) do take_slot(state, now, slot.token, slot.left_us) end
  end
  return { now_text, 'held' }
end

function requests.lost_at(states)
  return { now_text, 'lost_at', text(states[1].lost_at) }
end

function requests.recall(states)
  local state, lost_at = states[1], tonumber(asked.lost_at)
  if lost_at > 0 and state.lost_at == lost_at then
    state.lost_at = asked.unused_us and math.max(math.min(lost_at, now - asked.unused_us), 1) or 0
  end
  return { now_text, 'recalled' }
end

function requests.deposit(_, meters)
  for _, meter in ipairs(meters) do
    meter.reserved = meter.reserved + asked.amount
    if asked.amount == 0 then meter.none_left = meter.calendar.limit end
    save_calendar(meter)
  end
  return { now_text, 'deposited' }
end

function requests.correct(_, meters)
  for _, meter in ipairs(meters) do correct_meter(meter) end
  return { now_text, 'corrected' }
end

-- What an operator sees. Nothing is written, so it is the only request of its group, and has a reply for each limit.
local function peek(states, meters)
  local seen = {}
  for index, state in ipairs(states) do seen[index] = snapshot(state) end
  for _, meter in ipairs(meters) do
    local free_in, used_up_for = 0, 0
    if meter.calendar then
      free_in = calendar_moment(meter, now) - now
      if free_in > 0 and now + free_in >= next_of(meter.calendar) then used_up_for = free_in end
    else
      free_in = moment_of(meter.rate, meter.tat, now, 1) - now
    end
    seen[#seen + 1] = { text(free_in), '0', '0', '1', '0', 'closed', '0', text(used_up_for) }
  end
  return seen
end

local loaded, replies = {}, {}
for _, request in ipairs(group.requests) do
  asked = request
  asked.cost, asked.past = asked.cost or 1, asked.past or 'clean'
  asked.lease_us, asked.lead_us = asked.lease_us or 0, asked.lead_us or 0
  local states = {}
  for place, which in ipairs(asked.states) do
    if not loaded[which] then loaded[which] = load(group.states[which].keys, group.states[which].policy) end
    states[place] = loaded[which]
  end
  whole = states[1]
  local meters = asked.meters and load_meters() or {}
  if asked.op == 'peek' then return peek(states, meters) end
  if asked.good then
    for _, state in ipairs(states) do went_well(state, asked.good.calls, asked.good.elapsed) end
  end
  -- Calls that ask for the same are one request, with a reply for each.
  for _, token in ipairs(asked.tokens or { asked.token or '' }) do
    asked.token = token
    replies[#replies + 1] = requests[asked.op](states, meters)
  end
  -- What changes meters alone leaves the states as they are.
  if asked.op ~= 'deposit' and asked.op ~= 'correct' then
    for _, state in ipairs(states) do state.is_changed = true end
  end
end
for _, state in pairs(loaded) do
  if state.is_changed then save(state) end
end
return replies
