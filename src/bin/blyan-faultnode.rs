//! The node with faults on demand, for tests: lines on standard input arm and disarm them.
//!
//! `arm POINT panic|stall MS [COUNT]` arms a fault for the next COUNT hits (1 if not said) of a point: `chain`, `reward`,
//! `expert_cache`, `inference-1`, ..., `edge`, `edge_request`, `expert_ffn`; an actor's point is then hit at once.
//! `disarm POINT` takes it back. Each line is answered on standard output by `armed ...`, `disarmed ...` or
//! `refused ...`; a fault says `struck POINT` when it begins.
//!
//! `poison TOKEN` makes every later step that reads this token panic inside the expert operator; it is answered by
//! `poisoned TOKEN`.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::io::BufRead;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use blyan::wiring::{Faults, Poke, Seams};
use blyan_inference::kv::KvSlot;
use blyan_inference::step::{StepEngine, StepError, StepOutput, StepRow, Terminate};
use blyan_supervisors::Probe;
use parking_lot::Mutex;

/// Where an expert operator begins.
const OPERATOR: &str = "expert_ffn";

fn main() -> ExitCode {
    let armed = Arc::new(ArmedProbe::default());
    let poison = Arc::new(Poison::default());
    let seams = Seams {
        probe: Arc::clone(&armed) as Arc<dyn Probe>,
        around_engine: {
            let poison = Arc::clone(&poison);
            Arc::new(move |engine| {
                let poison = Arc::clone(&poison);
                Arc::new(PoisonableEngine { engine, poison })
            })
        },
    };
    blyan::cli::run(Faults {
        seams,
        driver: Some(Box::new(move |poke| {
            std::thread::spawn(move || obey(&armed, &poison, &poke));
        })),
    })
}

thread_local! {
    /// This thread computes a step that reads a poisonous token; the operators of a step begin on the step's thread.
    static POISONED: Cell<bool> = const { Cell::new(false) };
}

/// The tokens that no step survives.
#[derive(Default)]
struct Poison(Mutex<BTreeSet<u32>>);

impl Poison {
    fn is_in(&self, rows: &[StepRow<'_>]) -> bool {
        let poisonous = self.0.lock();
        let mut tokens = rows.iter().flat_map(|row| row.tokens);
        tokens.any(|token| poisonous.contains(token))
    }
}

/// Marks the steps that read a poisonous token.
struct PoisonableEngine {
    engine: Arc<dyn StepEngine>,
    poison: Arc<Poison>,
}

impl StepEngine for PoisonableEngine {
    fn rows_max(&self) -> usize {
        self.engine.rows_max()
    }

    fn chunk_max(&self) -> usize {
        self.engine.chunk_max()
    }

    fn vocabulary(&self) -> usize {
        self.engine.vocabulary()
    }

    fn new_slot(&self, context: usize) -> Result<KvSlot, StepError> {
        self.engine.new_slot(context)
    }

    fn step(
        &self,
        rows: &mut [StepRow<'_>],
        terminate: &Terminate,
    ) -> Result<StepOutput, StepError> {
        POISONED.set(self.poison.is_in(rows));
        self.engine.step(rows, terminate)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// A panic.
    Panic,
    /// The thread sleeps.
    Stall(Duration),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Armed {
    fault: Fault,
    left: u32,
}

/// Strikes at the points that were armed.
#[derive(Default)]
struct ArmedProbe(Mutex<HashMap<String, Armed>>);

impl ArmedProbe {
    fn take(&self, point: &str) -> Option<Fault> {
        let mut all = self.0.lock();
        let armed = all.get_mut(point)?;
        armed.left -= 1;
        let fault = armed.fault;
        if armed.left == 0 {
            all.remove(point);
        }
        Some(fault)
    }
}

impl Probe for ArmedProbe {
    #[allow(clippy::disallowed_methods, reason = "a stalled thread is the fault")]
    fn hit(&self, point: &str) {
        assert!(point != OPERATOR || !POISONED.get(), "a poisonous token");
        let Some(fault) = self.take(point) else {
            return;
        };
        println!("struck {point}");
        match fault {
            Fault::Panic => panic!("a fault that was armed at {point}"),
            Fault::Stall(time) => std::thread::sleep(time),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Order {
    Arm(String, Armed),
    Disarm(String),
    Poison(u32),
}

fn obey(probe: &ArmedProbe, poison: &Poison, poke: &Poke) {
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { return };
        match parse(&line) {
            Some(Order::Arm(point, armed)) => {
                probe.0.lock().insert(point.clone(), armed);
                println!("armed {}", line.trim());
                poke(&point);
            }
            Some(Order::Disarm(point)) => {
                probe.0.lock().remove(&point);
                println!("disarmed {point}");
            }
            Some(Order::Poison(token)) => {
                poison.0.lock().insert(token);
                println!("poisoned {token}");
            }
            None => println!("refused {}", line.trim()),
        }
    }
}

fn parse(line: &str) -> Option<Order> {
    let words: Vec<_> = line.split_whitespace().collect();
    let (order, words) = words.split_first()?;
    let (point, words) = words.split_first()?;
    match (*order, words) {
        ("poison", []) => Some(Order::Poison(point.parse().ok()?)),
        ("disarm", []) => Some(Order::Disarm((*point).to_owned())),
        ("arm", ["panic", count @ ..]) => arm(point, Fault::Panic, count),
        ("arm", ["stall", ms, count @ ..]) => {
            let time = Duration::from_millis(ms.parse().ok()?);
            arm(point, Fault::Stall(time), count)
        }
        _ => None,
    }
}

fn arm(point: &str, fault: Fault, count: &[&str]) -> Option<Order> {
    let left = match count {
        [] => 1,
        [count] => count.parse().ok().filter(|count| *count > 0)?,
        _ => return None,
    };
    Some(Order::Arm(point.to_owned(), Armed { fault, left }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read() {
        let armed = |fault, left| Some(Order::Arm("chain".into(), Armed { fault, left }));
        let stall = Fault::Stall(Duration::from_millis(50));
        assert_eq!(parse("arm chain panic"), armed(Fault::Panic, 1));
        assert_eq!(parse("arm chain panic 3"), armed(Fault::Panic, 3));
        assert_eq!(parse(" arm chain stall 50 2 "), armed(stall, 2));
        assert_eq!(parse("disarm chain"), Some(Order::Disarm("chain".into())));
        assert_eq!(parse("poison 17"), Some(Order::Poison(17)));
        for line in [
            "",
            "poison",
            "poison ivy",
            "arm",
            "arm chain",
            "arm chain dance",
            "arm chain stall",
            "arm chain panic 0",
            "disarm",
        ] {
            assert_eq!(parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn a_fault_strikes_as_often_as_it_was_armed() {
        let probe = ArmedProbe::default();
        probe.0.lock().insert(
            "chain".into(),
            Armed {
                fault: Fault::Panic,
                left: 2,
            },
        );
        assert_eq!(probe.take("edge"), None);
        assert_eq!(probe.take("chain"), Some(Fault::Panic));
        assert_eq!(probe.take("chain"), Some(Fault::Panic));
        assert_eq!(probe.take("chain"), None);
    }
}
