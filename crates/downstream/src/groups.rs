//! Requests about one dependency's limits travel to the script in groups: what is asked within a millisecond or two is one
//! question, however many calls ask. The script returns slots first, and decides the rest in the order in which it was asked. What
//! asks for the same is one request of the group.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use penstock_domain::limit::MeterPolicy;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::limiter::{CallLimits, CallMeter};
use crate::wire::{GroupState, MeterRequest, Policy, ScriptGroup, ScriptRequest};

/// Two groups of a dependency leave at least so far apart, where none of the requests is urgent.
const APART: Duration = Duration::from_millis(1);

/// The same after a group of at least [`MANY`] requests: so many ask that the script's own cost matters more than a millisecond.
const MANY_APART: Duration = Duration::from_millis(2);

/// See [`MANY_APART`].
const MANY: usize = 12;

/// Requests of a group at most: the script, which holds up everybody else, takes less than a millisecond for them.
const MOST: usize = 64;

/// A request, and who waits for its answer.
pub(crate) struct Question {
    dependency: String,
    /// The first keys of the states, and what these allow.
    states: Vec<(String, Policy)>,
    meters: Vec<(String, String)>,
    request: ScriptRequest,
    /// For each reply.
    waiting: Vec<Option<Waiting>>,
}

/// Receives a reply.
type Waiting = oneshot::Sender<Vec<String>>;

impl Question {
    /// A request about the limits of a call.
    pub(crate) fn new(limits: &CallLimits, mut request: ScriptRequest) -> Self {
        // Names without the installation's prefix. One hash slot for all keys of a dependency, as a cluster wants it.
        let key = |name: &str| {
            let owner = name.strip_prefix(limits.dependency.as_str()).unwrap_or(name);
            format!("lim:{{{}}}{owner}", limits.dependency)
        };
        let policies = std::iter::once(&limits.policy).chain(limits.owner.iter().map(|(_, policy)| policy));
        let states = limits.keys().map(|name| key(name)).zip(policies.map(Policy::from)).collect();
        // What is granted is charged: all else leaves the meters as they are.
        let meters: &[CallMeter] = match request.op {
            "acquire" | "peek" | "deposit" | "correct" => &limits.meters,
            _ => &[],
        };
        request.meters.extend(meters.iter().map(MeterRequest::from));
        for (meter, actual) in request.meters.iter_mut().zip(&request.actual) {
            meter.actual = Some(*actual);
        }
        let keys_of = |meter: &CallMeter| {
            let key = format!("{}:meter:{}", key(&limits.dependency), meter.id);
            match &meter.policy {
                MeterPolicy::Bucket(_) => (key.clone(), format!("{key}:turns")),
                MeterPolicy::Calendar(calendar) => {
                    let key = format!("{key}:{}", calendar.period);
                    (key.clone(), key)
                }
            }
        };
        let meters = meters.iter().map(keys_of).collect();
        Self { dependency: limits.dependency.clone(), states, meters, request, waiting: vec![None] }
    }

    /// The same with somebody who waits for the answer.
    pub(crate) fn answered(self) -> (Self, oneshot::Receiver<Vec<String>>) {
        let (sender, receiver) = oneshot::channel();
        (Self { waiting: vec![Some(sender)], ..self }, receiver)
    }

    /// A moment is near: another millisecond would make its call late.
    fn is_urgent(&self) -> bool {
        self.request.op == "confirm"
    }

    fn is_given_up(&self) -> bool {
        self.waiting.iter().any(|waiting| waiting.as_ref().is_some_and(oneshot::Sender::is_closed))
    }

    /// Joins a group: as a part of a request that asks for the same, where that changes nothing for those between them. Slots are
    /// returned before anything is asked for.
    fn join(self, group: &mut Vec<Self>) {
        let is_first = self.request.op == "returned";
        let like_this = |other: &&mut Self| {
            other.request.op == self.request.op
                && other.states.len() == self.states.len()
                && other.states.iter().zip(&self.states).all(|((one, _), (two, _))| one == two)
        };
        let other =
            if is_first { group.iter_mut().find(like_this) } else { group.last_mut().filter(like_this) };
        if let Some(other) = other
            && other.request.join(&self.request)
        {
            // Returned slots have one reply, which nobody waits for.
            if !is_first {
                other.waiting.extend(self.waiting);
            }
        } else if is_first {
            group.insert(0, self);
        } else {
            group.push(self);
        }
    }

    /// Whether it is about other limits of a state than one before it in a group: an operator has changed them meanwhile.
    fn contradicts(&self, group: &[Self]) -> bool {
        let of_group = || group.iter().flat_map(|question| &question.states);
        self.states.iter().any(|(key, policy)| of_group().any(|(other, its)| other == key && its != policy))
    }
}

/// Requests that are sent together, of one dependency, in the order in which they were asked.
pub(crate) struct Group(Vec<Question>);

impl Group {
    /// Of one request.
    pub(crate) fn of(question: Question) -> Self {
        Self(vec![question])
    }

    /// Who waits for the answers, in their order.
    pub(crate) fn take_waiting(&mut self) -> Vec<Option<Waiting>> {
        self.0.iter_mut().flat_map(|question| std::mem::take(&mut question.waiting)).collect()
    }

    /// The script's keys and argument.
    pub(crate) fn into_script(self, now: Option<f64>) -> (Vec<String>, ScriptGroup) {
        let mut keys = Vec::new();
        let mut group = ScriptGroup { now, ..ScriptGroup::default() };
        // The places of states in the group, by their first key.
        let mut known: HashMap<String, usize> = HashMap::new();
        for Question { states, meters, mut request, .. } in self.0 {
            for (key, policy) in states {
                let place = *known.entry(key).or_insert_with_key(|key| {
                    group.states.push(GroupState { keys: keys.len() + 1, policy });
                    keys.extend([key.clone(), format!("{key}:slots")]);
                    group.states.len()
                });
                request.states.push(place);
            }
            for (meter, (key, turns)) in request.meters.iter_mut().zip(meters) {
                meter.keys = keys.len() + 1;
                keys.extend([key, turns]);
            }
            group.requests.push(request);
        }
        (keys, group)
    }
}

/// What waits to be sent, by dependency.
#[derive(Default)]
pub(crate) struct Groups(Mutex<HashMap<String, Queue>>);

struct Queue {
    questions: VecDeque<Question>,
    /// Whether somebody sends its groups.
    is_sent: bool,
    /// When the next group may leave.
    next_at: Instant,
    urgent: Arc<Notify>,
}

impl Default for Queue {
    fn default() -> Self {
        let (questions, urgent) = (VecDeque::new(), Arc::default());
        Self { questions, is_sent: false, next_at: Instant::now(), urgent }
    }
}

impl Groups {
    /// Queues a request. Its dependency, when nobody sends the groups of that: whoever asked has to.
    pub(crate) fn add(&self, question: Question) -> Option<String> {
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !queues.contains_key(&question.dependency) {
            queues.insert(question.dependency.clone(), Queue::default());
        }
        let queue = queues.get_mut(&question.dependency)?;
        if question.is_urgent() {
            queue.urgent.notify_one();
        }
        let starts = !std::mem::replace(&mut queue.is_sent, true);
        let dependency = starts.then(|| question.dependency.clone());
        queue.questions.push_back(question);
        dependency
    }

    /// Waits until the next group may leave. None: nothing is asked any more, and the next one who asks has to send it.
    pub(crate) async fn next(&self, dependency: &str) -> Option<Group> {
        // All that can be asked at this moment comes along.
        tokio::task::yield_now().await;
        let (next_at, urgent) = {
            let queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let queue = queues.get(dependency)?;
            (queue.next_at, queue.urgent.clone())
        };
        tokio::select! {
            () = tokio::time::sleep_until(next_at) => {}
            () = urgent.notified() => {}
        }
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = queues.get_mut(dependency)?;
        let (mut group, mut asked) = (Vec::<Question>::new(), 0);
        while asked < MOST
            && let Some(question) = queue.questions.pop_front()
        {
            if question.contradicts(&group) {
                queue.questions.push_front(question);
                break;
            }
            if !question.is_given_up() {
                asked += 1;
                question.join(&mut group);
            }
        }
        if group.is_empty() {
            queues.remove(dependency);
            return None;
        }
        // What is left waits for nothing.
        let apart = match asked {
            _ if !queue.questions.is_empty() => Duration::ZERO,
            MANY.. => MANY_APART,
            _ => APART,
        };
        queue.next_at = Instant::now() + apart;
        Some(Group(group))
    }
}
