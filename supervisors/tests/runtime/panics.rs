//! A panic, wherever it strikes, ends one generation: the handle stays good and every caller gets an answer.

use crate::puppet::{
    Boom, BoomActFuture, BoomAtomic, BoomFuture, Count, Journal, LONG, Latch, Leave, Puppet, Where,
    count_when_back, endless, puppet, start, start_one,
};
use actix::{Handler, Message};
use blyan_supervisors::{CallError, ChildRef, ExitReason, Generation, SupervisorSpec, TreeEvent};

async fn booms<M>(child: &ChildRef<Puppet>, message: M)
where
    Puppet: Handler<M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    let before = child.generation();
    // Panics outside the handler itself come after the answer.
    let answer = child.call(message, LONG).await.err();
    assert!(matches!(answer, None | Some(CallError::Lost)), "{answer:?}");
    while child.generation() == before {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    assert_eq!(count_when_back(child).await, 1, "its state is fresh");
}

#[actix_rt::test]
async fn the_same_handle_works_after_a_panic_anywhere() {
    let (tree, child, journal) = start_one("a").await;
    booms(&child, Boom(Where::Handler)).await;
    booms(&child, BoomActFuture).await;
    booms(&child, BoomFuture).await;
    booms(&child, BoomAtomic).await;
    booms(&child, Boom(Where::Later)).await;
    booms(&child, Boom(Where::Task)).await;
    assert_eq!(child.generation(), Generation(7));
    let stopped = journal
        .lines()
        .iter()
        .filter(|line| *line == "stopped a")
        .count();
    assert_eq!(stopped, 0, "no hook runs on a broken actor");
    tree.stop(LONG).await;
}

#[actix_rt::test]
async fn who_is_told_of_a_panic_finds_the_gate_shut() {
    let (tree, child, _) = start_one("a").await;
    for _ in 0..200 {
        let told = child.call(Boom(Where::Handler), LONG).await;
        assert_eq!(told, Err(CallError::Lost));
        // Refused, or answered by the next generation already.
        match child.call(Count, LONG).await {
            Ok(count) => assert_eq!(count, 1, "a new generation answers"),
            Err(refusal) => assert!(refusal.retry_after().is_some(), "{refusal:?}"),
        }
        child.wait_running(LONG).await.expect("it comes back");
    }
    tree.stop(LONG).await;
}

#[actix_rt::test]
async fn the_exit_carries_the_panics_text() {
    let (tree, child, _) = start_one("a").await;
    let mut events = tree.subscribe();
    assert_eq!(
        child.call(Boom(Where::Handler), LONG).await,
        Err(CallError::Lost)
    );
    let reason = loop {
        if let TreeEvent::ChildExited { reason, .. } = events.recv().await.expect("the tree lives")
        {
            break reason;
        }
    };
    assert_eq!(reason, ExitReason::Panicked("boom in handler".to_owned()));
    count_when_back(&child).await;
    let exit = tree
        .describe()
        .find("a")
        .and_then(|a| a.last_exit.clone())
        .expect("it exited");
    assert_eq!(exit.class, "panicked");
    assert_eq!(exit.text.as_deref(), Some("panicked: boom in handler"));
    tree.stop(LONG).await;
}

#[actix_rt::test]
async fn calls_that_wait_behind_a_panic_are_lost_not_left_hanging() {
    let (tree, child, _) = start_one("a").await;
    let latch = Latch::default();
    let blocked = child.call(crate::puppet::Block(latch.clone()), LONG);
    let boom = child.call(Boom(Where::Handler), LONG);
    let queued = futures_util::future::join_all((0..50).map(|_| child.call(Count, LONG)));
    let release = async {
        tokio::task::yield_now().await;
        latch.open();
    };
    let (blocked, boom, queued, ()) = tokio::join!(blocked, boom, queued, release);
    assert_eq!(blocked, Ok(()));
    assert_eq!(boom, Err(CallError::Lost));
    assert_eq!(queued, vec![Err(CallError::Lost); 50]);
    tree.stop(LONG).await;
}

#[actix_rt::test]
async fn an_actor_can_end_itself_with_a_reason() {
    let (tree, child, journal) = start_one("a").await;
    let reason = ExitReason::Fatal("state in doubt".to_owned());
    // The answer of the message in hand may still get out.
    let _ = child.call(Leave(reason), LONG).await;
    while child.generation() == Generation(1) {
        tokio::task::yield_now().await;
    }
    count_when_back(&child).await;
    let exit = tree
        .describe()
        .find("a")
        .and_then(|a| a.last_exit.clone())
        .expect("it exited");
    assert_eq!(
        (exit.class.as_str(), exit.text.as_deref()),
        ("fatal", Some("fatal: state in doubt"))
    );
    assert!(!journal.has("stopped a"));
    tree.stop(LONG).await;
}

#[actix_rt::test]
async fn a_panic_in_stopped_or_in_drop_does_not_end_the_process() {
    let journal = Journal::default();
    let (noted, dropped) = (journal.clone(), journal.clone());
    let both = blyan_supervisors::ChildSpec::new("both", move |start| {
        Ok(Puppet::new(start, &noted).panicking(true, true))
    });
    let crashing = blyan_supervisors::ChildSpec::new("crashing", move |start| {
        Ok(Puppet::new(start, &dropped).panicking(true, true))
    });
    let crashing_ref = crashing.child_ref();
    let last = puppet("last", &journal);
    let tree = start(
        SupervisorSpec::new("node")
            .window(endless())
            .child(both)
            .child(crashing)
            .child(last),
    );
    tree.wait_running("node", LONG).await.expect("it starts");
    assert_eq!(
        crashing_ref.call(Boom(Where::Handler), LONG).await,
        Err(CallError::Lost)
    );
    count_when_back(&crashing_ref).await;
    assert_eq!(tree.stop(LONG).await, blyan_supervisors::TreeExit::Stopped);
    assert!(journal.has("stopped both") && journal.has("drop both"));
}
