//! The node with faults on demand, for tests: lines on standard input arm and disarm them.
//!
//! `arm POINT panic|stall MS [COUNT]` arms a fault for the next COUNT hits (1 if not said) of a point: `chain`,
//! `expert_cache`, `inference-1`, ..., `edge`, `edge_request`, `expert_ffn`; an actor's point is then hit at once.
//! `disarm POINT` takes it back. Each line is answered on standard output by `armed ...`, `disarmed ...` or
//! `refused ...`; a fault says `struck POINT` when it begins.

use std::collections::HashMap;
use std::io::BufRead;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use blyan::wiring::{Faults, Poke};
use blyan_supervisors::Probe;
use parking_lot::Mutex;

fn main() -> ExitCode {
    let probe = Arc::new(ArmedProbe::default());
    let armed = Arc::clone(&probe);
    blyan::cli::run(Faults {
        probe,
        driver: Some(Box::new(move |poke| {
            std::thread::spawn(move || obey(&armed, &poke));
        })),
    })
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
}

fn obey(probe: &ArmedProbe, poke: &Poke) {
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
            None => println!("refused {}", line.trim()),
        }
    }
}

fn parse(line: &str) -> Option<Order> {
    let words: Vec<_> = line.split_whitespace().collect();
    let (order, words) = words.split_first()?;
    let (point, words) = words.split_first()?;
    match (*order, words) {
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
        for line in [
            "",
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
