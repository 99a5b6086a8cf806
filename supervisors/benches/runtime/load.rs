//! What is asked of every peer.

use std::{
    fmt,
    time::{Duration, Instant},
};

use futures_util::future::{FutureExt, LocalBoxFuture, join_all};

/// Messages that a peer whose mailbox is bounded has room for.
pub const ROOM: usize = 1024;
/// Messages told in a row before the producer asks, which waits for them; eight producers stay within [`ROOM`].
const BURST: u32 = 100;

/// An actor that counts its messages, as its callers see it.
pub trait Peer: Clone + 'static {
    /// Counts one up and returns the count.
    async fn ask(&self) -> u64;
    /// Counts one up.
    fn tell(&self);
}

/// A peer that is restarted after a panic, with a count of 0.
pub trait Supervised: Peer {
    /// Has the actor panic over a message and asks until a new one answers.
    async fn crash(&self) -> u64;
}

/// What is measured; the unit is nanoseconds for each message or restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// With `clock`, the producers' runtime has a timer pending, as one that serves HTTP always has.
    Ask {
        producers: u32,
        clock: bool,
    },
    Tell {
        producers: u32,
    },
    Restart,
}

impl Case {
    pub const ALL: [Self; 7] = [
        Self::ask(1, false),
        Self::ask(1, true),
        Self::ask(8, false),
        Self::ask(8, true),
        Self::Tell { producers: 1 },
        Self::Tell { producers: 8 },
        Self::Restart,
    ];

    pub const fn ask(producers: u32, clock: bool) -> Self {
        Self::Ask { producers, clock }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ask { producers, clock } => {
                let beside = if *clock { ", clock" } else { "" };
                write!(f, "ask x {producers}{beside}")
            }
            Self::Tell { producers } => write!(f, "tell x {producers}"),
            Self::Restart => f.write_str("restart"),
        }
    }
}

/// How much one sample is made of, all producers together.
#[derive(Clone, Copy)]
pub struct Scale {
    asks: u32,
    bursts: u32,
    restarts: u32,
}

impl Scale {
    /// A few tenths of a second for each sample.
    pub const FULL: Self = Self {
        asks: 24_000,
        bursts: 4_000,
        restarts: 400,
    };
    pub const BRIEF: Self = Self {
        asks: 800,
        bursts: 80,
        restarts: 8,
    };
}

type Sample = LocalBoxFuture<'static, Option<f64>>;

/// A peer with its name.
pub struct Lane {
    pub name: &'static str,
    sample: Box<dyn Fn(Case, Scale) -> Sample>,
}

impl Lane {
    /// A peer that nobody restarts.
    pub fn new(name: &'static str, peer: impl Peer) -> Self {
        let sample = move |case, scale| messages(peer.clone(), case, scale).boxed_local();
        Self {
            name,
            sample: Box::new(sample),
        }
    }

    pub fn supervised(name: &'static str, peer: impl Supervised) -> Self {
        let sample = move |case, scale: Scale| match case {
            Case::Restart => restarts(peer.clone(), scale.restarts).boxed_local(),
            _ => messages(peer.clone(), case, scale).boxed_local(),
        };
        Self {
            name,
            sample: Box::new(sample),
        }
    }

    /// `None` where the peer has no such thing.
    pub async fn run(&self, case: Case, scale: Scale) -> Option<f64> {
        (self.sample)(case, scale).await
    }
}

async fn messages<P: Peer>(peer: P, case: Case, scale: Scale) -> Option<f64> {
    let before = peer.ask().await;
    let (sent, took) = match case {
        Case::Ask { producers, clock } => {
            let each = scale.asks / producers;
            let _clock = clock.then(Clock::start);
            let took = produce(&peer, producers, move |peer| asks(peer, each)).await;
            (producers * each, took)
        }
        Case::Tell { producers } => {
            let each = scale.bursts / producers;
            let took = produce(&peer, producers, move |peer| bursts(peer, each)).await;
            (producers * each * (BURST + 1), took)
        }
        Case::Restart => return None,
    };
    let handled = peer.ask().await - before - 1;
    assert_eq!(handled, u64::from(sent), "messages went astray");
    Some(each_ns(took, sent))
}

async fn produce<P, F>(peer: &P, producers: u32, work: impl Fn(P) -> F) -> Duration
where
    P: Peer,
    F: Future<Output = ()> + 'static,
{
    let began = Instant::now();
    let tasks = (0..producers).map(|_| actix_rt::spawn(work(peer.clone())));
    for ended in join_all(tasks).await {
        ended.expect("a producer that does not panic");
    }
    began.elapsed()
}

/// What actix-web's is in a node: a timer that is nearer than most deadlines.
struct Clock(actix_rt::task::JoinHandle<()>);

impl Clock {
    fn start() -> Self {
        Self(actix_rt::spawn(async {
            let mut ticks = tokio::time::interval(Duration::from_millis(500));
            loop {
                ticks.tick().await;
            }
        }))
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn asks<P: Peer>(peer: P, count: u32) {
    for _ in 0..count {
        peer.ask().await;
    }
}

async fn bursts<P: Peer>(peer: P, count: u32) {
    for _ in 0..count {
        for _ in 0..BURST {
            peer.tell();
        }
        peer.ask().await;
    }
}

async fn restarts<P: Supervised>(peer: P, count: u32) -> Option<f64> {
    let began = Instant::now();
    for _ in 0..count {
        assert_eq!(peer.crash().await, 1, "an old state answered");
    }
    Some(each_ns(began.elapsed(), count))
}

fn each_ns(took: Duration, count: u32) -> f64 {
    took.as_nanos() as f64 / f64::from(count)
}
