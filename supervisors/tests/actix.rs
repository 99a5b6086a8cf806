//! What actix does by itself, and why it is not used for supervision. An upgrade that changes any of this is noticed
//! here. Panics printed by this file are wanted.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "these tests show what the banned methods do"
)]

use std::{
    os::unix::process::ExitStatusExt,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use actix::{
    Actor, ActorContext, Addr, Context, Handler, MailboxError, Message, Running, Supervised,
    Supervisor, SyncArbiter, SyncContext, SystemService,
};

#[derive(Message)]
#[rtype("()")]
struct Boom;

#[derive(Message)]
#[rtype(u32)]
struct Ask;

/// Panics when told to; each field is one way to behave at the end.
#[derive(Default)]
struct Fragile {
    restarted: Arc<AtomicU32>,
    stopped: Arc<AtomicU32>,
    refuses_to_stop: bool,
    panics_in_stopped: bool,
}

impl Actor for Fragile {
    type Context = Context<Self>;

    fn stopping(&mut self, _: &mut Self::Context) -> Running {
        match self.refuses_to_stop {
            true => Running::Continue,
            false => Running::Stop,
        }
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.stopped.fetch_add(1, Ordering::SeqCst);
        assert!(!self.panics_in_stopped, "boom in stopped");
    }
}

impl Supervised for Fragile {
    fn restarting(&mut self, _: &mut Self::Context) {
        self.restarted.fetch_add(1, Ordering::SeqCst);
    }
}

impl SystemService for Fragile {}

impl Handler<Boom> for Fragile {
    type Result = ();

    fn handle(&mut self, _: Boom, _: &mut Self::Context) {
        panic!("boom in handler");
    }
}

impl Handler<Ask> for Fragile {
    type Result = u32;

    fn handle(&mut self, _: Ask, _: &mut Self::Context) -> u32 {
        102
    }
}

async fn until_dead(addr: &Addr<Fragile>) {
    while addr.connected() {
        actix_rt::time::sleep(Duration::from_millis(1)).await;
    }
}

#[actix_rt::test]
async fn a_panic_under_actixs_supervisor_is_the_end() {
    let (restarted, stopped) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let fragile = Fragile {
        restarted: Arc::clone(&restarted),
        stopped: Arc::clone(&stopped),
        ..Fragile::default()
    };
    let addr = Supervisor::start(|_| fragile);
    let (boom, queued) = tokio::join!(addr.send(Boom), addr.send(Ask));
    assert!(matches!(boom, Err(MailboxError::Closed)));
    assert!(matches!(queued, Err(MailboxError::Closed)));
    until_dead(&addr).await;
    assert_eq!(restarted.load(Ordering::SeqCst), 0, "nothing was restarted");
    assert_eq!(
        stopped.load(Ordering::SeqCst),
        1,
        "its hook ran on the broken state"
    );
}

/// Stops in `started` again and again, up to a bound that actix does not have.
struct Hasty {
    starts: u32,
    neighbour_ran: Arc<AtomicBool>,
    seen: Arc<AtomicBool>,
}

const STARTS: u32 = 100_000;

impl Actor for Hasty {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.starts += 1;
        if self.starts < STARTS {
            ctx.stop();
        } else {
            self.seen
                .store(self.neighbour_ran.load(Ordering::SeqCst), Ordering::SeqCst);
        }
    }
}

impl Supervised for Hasty {}

impl Handler<Ask> for Hasty {
    type Result = u32;

    fn handle(&mut self, _: Ask, _: &mut Self::Context) -> u32 {
        self.starts
    }
}

#[actix_rt::test]
async fn a_stop_in_started_restarts_without_limit_and_without_a_breath() {
    let (neighbour_ran, seen) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(true)),
    );
    let hasty = Hasty {
        starts: 0,
        neighbour_ran: Arc::clone(&neighbour_ran),
        seen: Arc::clone(&seen),
    };
    let addr = Supervisor::start(|_| hasty);
    actix_rt::spawn(async move { neighbour_ran.store(true, Ordering::SeqCst) });
    assert_eq!(addr.send(Ask).await, Ok(STARTS));
    assert!(
        !seen.load(Ordering::SeqCst),
        "a neighbour had no turn in {STARTS} restarts"
    );
}

#[actix_rt::test]
async fn an_actor_that_refuses_to_stop_handles_the_next_message_while_unwinding() {
    let refuses = Fragile {
        refuses_to_stop: true,
        ..Fragile::default()
    };
    let addr = refuses.start();
    let (boom, next) = tokio::join!(addr.send(Boom), addr.send(Ask));
    assert!(matches!(boom, Err(MailboxError::Closed)));
    assert_eq!(next, Ok(102), "answered by the broken instance");
}

const ABORT: &str = "BLYAN_ACTIX_ABORT";

/// A panic in the handler and another in `stopped` are a panic while unwinding.
#[test]
fn a_panic_in_a_handler_and_in_stopped_aborts_the_process() {
    if std::env::var_os(ABORT).is_some() {
        actix_rt::System::new().block_on(async {
            let fragile = Fragile {
                panics_in_stopped: true,
                ..Fragile::default()
            };
            let _ = fragile.start().send(Boom).await;
        });
        return;
    }
    let child = Command::new(std::env::current_exe().expect("the test's own binary"))
        .args([
            "--exact",
            "a_panic_in_a_handler_and_in_stopped_aborts_the_process",
        ])
        .env(ABORT, "1")
        .output()
        .expect("it can be run again");
    const SIGABRT: i32 = 6;
    assert_eq!(child.status.signal(), Some(SIGABRT));
}

struct Synchronous;

impl Actor for Synchronous {
    type Context = SyncContext<Self>;
}

impl Handler<Boom> for Synchronous {
    type Result = ();

    fn handle(&mut self, _: Boom, _: &mut Self::Context) {
        panic!("boom in a sync arbiter");
    }
}

impl Handler<Ask> for Synchronous {
    type Result = u32;

    fn handle(&mut self, _: Ask, _: &mut Self::Context) -> u32 {
        1
    }
}

#[actix_rt::test]
async fn a_sync_arbiter_does_not_replace_threads_that_panicked() {
    let made = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&made);
    let addr = SyncArbiter::start(2, move || {
        counted.fetch_add(1, Ordering::SeqCst);
        Synchronous
    });
    assert!(addr.send(Boom).await.is_err());
    assert_eq!(addr.send(Ask).await, Ok(1), "the other thread is left");
    assert!(addr.send(Boom).await.is_err());
    while addr.connected() {
        let answer = tokio::time::timeout(Duration::from_millis(50), addr.send(Ask)).await;
        assert!(!matches!(answer, Ok(Ok(_))), "nobody is left to answer");
    }
    assert_eq!(made.load(Ordering::SeqCst), 2, "no thread was replaced");
}

#[actix_rt::test]
async fn the_registry_keeps_handing_out_a_dead_service() {
    let addr = Fragile::from_registry();
    assert!(addr.send(Boom).await.is_err());
    until_dead(&addr).await;
    assert!(!Fragile::from_registry().connected());
}

#[actix_rt::test]
async fn the_capacity_of_a_mailbox_is_no_bound() {
    // The actors share this thread and have no turn in this test.
    let one = Fragile::default().start();
    let accepted = (0..200).filter(|_| one.try_send(Ask).is_ok()).count();
    assert_eq!(accepted, 16, "one sender is held to it");
    let cloned = Fragile::default().start();
    let accepted = (0..200)
        .filter(|_| cloned.clone().try_send(Ask).is_ok())
        .count();
    assert_eq!(accepted, 200, "each sender owns a slot beyond the 16");
}

#[actix_rt::test]
async fn do_send_knows_no_bound_at_all() {
    let addr = Fragile::default().start();
    (0..100_000).for_each(|_| addr.do_send(Ask));
    assert_eq!(addr.send(Ask).await, Ok(102), "all of them were taken in");
}
