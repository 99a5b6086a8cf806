//! The handle under shuttle: callers, the actor's real wrapper and a supervisor, in many orders of their steps.
//! `docs/decisions/0030-schedules-of-the-handle.md` says what this shows and what it cannot.
//!
//! A failure prints its schedule, which `shuttle::replay` runs again; `SCHEDULES` and `SCHEDULE_SEED` in the
//! environment choose how many and which.

mod clerk;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use futures_util::FutureExt;
use shuttle::{
    Config, Runner,
    future::block_on,
    scheduler::{DfsScheduler, PctScheduler, RandomScheduler, Scheduler},
    thread,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::clerk::{Answer, Clerk, Enter, EnterLater, Ledger, Living};
use crate::{
    CallError, ChildRef, ChildSpec, ExitReason, Generation,
    admission::Admission,
    control::Control,
    gate::{GateControl, Live},
};

/// Time stands still in these tests: a call that nobody answers is a deadlock, which shuttle reports.
const LONG: Duration = Duration::from_secs(3600);
const MAILBOX: usize = 2;
const CALLERS: usize = 3;
/// Two of each caller, and one of the impatient one.
const CALLS: usize = 2 * CALLERS + 1;

/// How the first generation ends while calls are on their way.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The actor's own wish.
    Exit,
    Kill,
    /// As the supervisor does: no further message, then the order.
    ShutAndStop,
    /// Its thread is blocked: it is given up, and goes on when its successor has served.
    Abandon,
}

impl End {
    fn come(self, child: &ChildRef<Clerk>, control: &Control) {
        match self {
            Self::Exit => control.exit(ExitReason::Fatal("odd".to_owned())),
            Self::Kill => control.kill(),
            Self::ShutAndStop => {
                child.gate.shut(Generation(1));
                control.stop();
            }
            Self::Abandon => {
                child.gate.shut(Generation(1));
                control.kill();
            }
        }
    }
}

/// One run: what the supervisor needs, and the ledger of both generations.
struct Run {
    spec: Arc<ChildSpec<Clerk>>,
    ledger: Ledger,
    /// Keeps the first generation stuck at its first message.
    sticks: Option<shuttle::sync::mpsc::Sender<()>>,
}

impl Run {
    fn new(end: End) -> Self {
        let ledger = Ledger::default();
        let (sticks, stuck) = shuttle::sync::mpsc::channel();
        let stuck = Mutex::new(Some(stuck).filter(|_| matches!(end, End::Abandon)));
        let entries = Arc::clone(&ledger);
        let spec = ChildSpec::new("clerk", move |start| {
            let is_first = start.generation() == Generation(1);
            let mut stuck = stuck.lock().expect("not poisoned");
            Ok(Clerk {
                ledger: Arc::clone(&entries),
                generation: start.generation(),
                stuck: stuck.take_if(|_| is_first),
            })
        });
        Self {
            spec: Arc::new(spec.mailbox_len_max(MAILBOX)),
            ledger,
            sticks: Some(sticks),
        }
    }

    fn entries(&self) -> usize {
        self.ledger.lock().expect("not poisoned").len()
    }

    /// The first generation ends at any time; the second serves until all callers have been answered.
    fn supervise(&mut self, end: End, callers: Vec<thread::JoinHandle<()>>) {
        let first = Living::start(&self.spec, 1);
        end.come(&self.spec.child_ref(), &first.control);
        let entered = self.entries();
        if matches!(end, End::Abandon) {
            self.succeed(callers);
            self.sticks = None;
            first.ended();
            return;
        }
        first.ended();
        assert!(
            self.entries() <= entered + 1,
            "the order waits for the message in hand alone"
        );
        self.succeed(callers);
    }

    fn succeed(&self, callers: Vec<thread::JoinHandle<()>>) {
        let child = self.spec.child_ref();
        let second = Living::start(&self.spec, 2);
        let up = block_on(child.wait_running(LONG));
        assert_eq!(up, Ok(Generation(2)));
        let live = child.gate.live().expect("it runs");
        for caller in callers {
            caller.join().expect("a caller does not panic");
        }
        child.gate.shut(Generation(2));
        second.control.stop();
        second.ended();
        assert_eq!(
            live.admission.taken(),
            0,
            "each place in the mailbox has been given back"
        );
    }
}

type Outcomes = Arc<Mutex<Vec<(usize, Result<Answer, CallError>)>>>;

fn calls(child: ChildRef<Clerk>, caller: usize, outcomes: Outcomes) {
    let (first, second) = (2 * caller, 2 * caller + 1);
    // Whether it is still up when the call comes is for the schedule to say.
    let _ = block_on(child.wait_running(LONG));
    let at_once = block_on(child.call(Enter(first), LONG));
    let later = block_on(child.call(EnterLater(second), LONG));
    let mut outcomes = outcomes.lock().expect("not poisoned");
    outcomes.extend([(first, at_once), (second, later)]);
}

/// Asks, looks once and goes away.
fn gives_up(child: &ChildRef<Clerk>, call: usize) {
    let mut asked = Box::pin(child.call(Enter(call), LONG));
    block_on(std::future::poll_fn(|cx| {
        let _ = asked.poll_unpin(cx);
        Poll::Ready(())
    }));
}

fn check(end: End, ledger: &[Answer], outcomes: &[(usize, Result<Answer, CallError>)]) {
    let in_turn = |pair: &[Answer]| pair[0].generation <= pair[1].generation;
    // An abandoned one may still have the message in hand when its successor starts: that is what tokens fence.
    let in_turn = ledger.windows(2).all(in_turn) || matches!(end, End::Abandon);
    assert!(in_turn, "{ledger:?}");
    let of_first = |entry: &&Answer| entry.generation == Generation(1);
    assert!(
        !matches!(end, End::Abandon) || ledger.iter().filter(of_first).count() <= 1,
        "a zombie handles nothing when it wakes"
    );
    for call in 0..CALLS {
        let times = ledger.iter().filter(|entry| entry.call == call).count();
        assert!(times <= 1, "call {call} was handled {times} times");
    }
    assert_eq!(outcomes.len(), 2 * CALLERS, "each patient caller knows");
    for (call, outcome) in outcomes {
        let handled = ledger.iter().find(|entry| entry.call == *call);
        match outcome {
            Ok(answer) => assert_eq!(Some(answer), handled, "its own answer, and handled"),
            Err(CallError::Lost) => {}
            Err(CallError::Timeout) => panic!("time stands still"),
            Err(refusal) => assert_eq!(handled, None, "refused as {refusal}, but handled"),
        }
    }
}

/// How calls came out in all schedules, so that a scenario in which nothing happens is noticed.
#[derive(Default)]
struct Tally {
    answered: AtomicUsize,
    lost: AtomicUsize,
    full: AtomicUsize,
    down: AtomicUsize,
}

impl Tally {
    fn count(&self, outcome: &Result<Answer, CallError>) {
        let kind = match outcome {
            Ok(_) => &self.answered,
            Err(CallError::Full { .. }) => &self.full,
            Err(CallError::Down { .. }) => &self.down,
            Err(_) => &self.lost,
        };
        kind.fetch_add(1, Ordering::Relaxed);
    }

    fn all(&self) -> [usize; 4] {
        [&self.answered, &self.lost, &self.full, &self.down]
            .map(|kind| kind.load(Ordering::Relaxed))
    }
}

fn calls_around_an_end(end: End, tally: &Tally) {
    let (mut run, outcomes) = (Run::new(end), Outcomes::default());
    let child = run.spec.child_ref();
    let mut callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (child, outcomes) = (child.clone(), Arc::clone(&outcomes));
            thread::spawn(move || calls(child, caller, outcomes))
        })
        .collect();
    callers.push(thread::spawn(move || gives_up(&child, CALLS - 1)));
    run.supervise(end, callers);
    let ledger = run.ledger.lock().expect("not poisoned");
    let outcomes = outcomes.lock().expect("not poisoned");
    check(end, &ledger, &outcomes);
    outcomes
        .iter()
        .for_each(|(_, outcome)| tally.count(outcome));
}

fn number(variable: &str, default: u64) -> u64 {
    let value = std::env::var(variable).ok();
    value.map_or(default, |text| text.parse().expect(variable))
}

fn explore(scheduler: impl Scheduler + 'static, end: End, tally: &Arc<Tally>) -> usize {
    let tally = Arc::clone(tally);
    let mut config = Config::new();
    config.stack_size = 1 << 18;
    Runner::new(scheduler, config).run(move || calls_around_an_end(end, &tally))
}

#[test]
fn no_reply_is_lost_or_doubled() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime without I/O");
    // Nobody drives it: deadlines can be set and never come.
    let _entered = runtime.enter();
    let seed = number("SCHEDULE_SEED", 20_261_122);
    let each = usize::try_from(number("SCHEDULES", 10_000)).unwrap_or(usize::MAX);
    for end in [End::Exit, End::Kill, End::ShutAndStop, End::Abandon] {
        let tally = Arc::new(Tally::default());
        let random = RandomScheduler::new_from_seed(seed, each);
        let by_priority = PctScheduler::new_from_seed(seed, 3, each);
        let schedules = explore(random, end, &tally) + explore(by_priority, end, &tally);
        let met = tally.all();
        println!(
            "{end:?}: {schedules} schedules, SCHEDULE_SEED={seed}, calls answered, lost, full, down: {met:?}"
        );
        assert!(met.iter().all(|&times| times > 0), "{met:?}");
    }
}

fn live(generation: u64) -> Live<Clerk> {
    Live {
        generation: Generation(generation),
        parcels: mpsc::unbounded_channel().0,
        admission: Admission::new(MAILBOX),
        token: CancellationToken::new(),
    }
}

fn opens_and_shuts() {
    let child = ChildRef::<Clerk>::unbound();
    let gate = Arc::clone(&child.gate);
    let late = thread::spawn(move || gate.open(live(1)));
    let gate = Arc::clone(&child.gate);
    let next = thread::spawn(move || {
        gate.shut(Generation(1));
        gate.open(live(2));
        gate.shut(Generation(1));
    });
    late.join().expect("it returns");
    next.join().expect("it returns");
    let open = child.gate.live().map(|live| live.generation);
    assert_eq!(open, Some(Generation(2)));
}

/// Every schedule there is: the gate ends up with the second generation, whenever the first would open.
#[test]
fn a_generation_that_was_shut_never_opens() {
    let every = DfsScheduler::new(None, false);
    let schedules = Runner::new(every, Config::new()).run(opens_and_shuts);
    println!("{schedules} schedules, which are all");
}
