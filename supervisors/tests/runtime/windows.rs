//! Windows, quarantine and escalation through the whole runtime; the core's tests have the tables.

use std::time::Duration;

use blyan_supervisors::{
    CallError, ChildRef, ChildSpec, ChildState, ExitReason, Restart, Strategy, SupervisorSpec,
    TreeEvent, TreeExit, Window,
};

use crate::puppet::{
    Boom, Count, Journal, LONG, Leave, Puppet, Where, count_when_back, endless, eventually,
    failing_starts, puppet, start,
};

async fn crash(child: &ChildRef<Puppet>) {
    count_when_back(child).await;
    assert_eq!(
        child.call(Boom(Where::Handler), LONG).await,
        Err(CallError::Lost)
    );
}

#[actix_rt::test]
async fn a_used_up_window_quarantines_and_only_recover_brings_it_back() {
    let journal = Journal::default();
    let spec = puppet("a", &journal);
    let child = spec.child_ref();
    let tree = start(SupervisorSpec::new("node").child(spec));
    for _ in 0..4 {
        crash(&child).await;
    }
    eventually("it is quarantined", || {
        child.state() == ChildState::Quarantined
    })
    .await;
    assert!(matches!(
        child.call(Count, LONG).await,
        Err(CallError::Quarantined { .. })
    ));
    let described = tree.describe();
    let a = described.find("a").expect("it is in the tree");
    assert_eq!(
        (a.state, a.restarts_in_window),
        (ChildState::Quarantined, 3)
    );
    assert_eq!(
        a.quarantine_reason.as_deref(),
        Some("more than 3 restarts within 60s, last exit: panicked")
    );
    tree.recover("a").await.expect("it is in the tree");
    assert_eq!(count_when_back(&child).await, 1);
    tree.stop(LONG).await;
}

#[actix_rt::test]
async fn a_person_can_quarantine_restart_and_recover() {
    let journal = Journal::default();
    let (a, b) = (puppet("a", &journal), puppet("b", &journal));
    let (a_ref, b_ref) = (a.child_ref(), b.child_ref());
    let tree = start(
        SupervisorSpec::new("node")
            .strategy(Strategy::RestForOne)
            .child(a)
            .child(b),
    );
    tree.wait_running("node", LONG).await.expect("it starts");
    tree.quarantine("a", "looks odd")
        .await
        .expect("it is in the tree");
    assert!(
        a_ref.call(Count, LONG).await.is_err(),
        "refused from the moment of the command"
    );
    eventually("a is out and b down", || {
        a_ref.state() == ChildState::Quarantined && b_ref.state() == ChildState::Stopped
    })
    .await;
    assert!(matches!(
        b_ref.call(Count, LONG).await,
        Err(CallError::Down {
            state: ChildState::Stopped,
            ..
        })
    ));
    assert!(
        tree.restart("a").await.is_err(),
        "a restart does not lift a quarantine"
    );
    tree.recover("a").await.expect("it is in the tree");
    assert_eq!(
        (count_when_back(&a_ref).await, count_when_back(&b_ref).await),
        (1, 1)
    );
    tree.restart("b").await.expect("it is in the tree");
    eventually("b is new", || b_ref.generation().0 == 3).await;
    assert_eq!(a_ref.generation().0, 2);
    assert!(tree.recover("nowhere").await.is_err());
    tree.stop(LONG).await;
}

#[actix_rt::test]
async fn failures_of_a_child_without_quarantine_end_the_tree() {
    let journal = Journal::default();
    let edge = puppet("edge", &journal).quarantine(false);
    let child = edge.child_ref();
    let window = Window::new(2, Duration::from_secs(60));
    let tree = start(
        SupervisorSpec::new("node")
            .window(window)
            .child(puppet("a", &journal))
            .child(edge),
    );
    for _ in 0..3 {
        crash(&child).await;
    }
    let TreeExit::Escalated { why } = tree.wait().await else {
        panic!("it ends by escalation");
    };
    assert_eq!(
        why,
        "more than 2 restarts within 60s, last exit: edge panicked: boom in handler"
    );
    assert!(journal.has("stopped a"), "the others were stopped in order");
}

#[actix_rt::test]
async fn an_escalation_restarts_the_nested_supervisor_whole() {
    let journal = Journal::default();
    let (a, b) = (
        puppet("a", &journal).quarantine(false),
        puppet("b", &journal),
    );
    let (a_ref, b_ref) = (a.child_ref(), b.child_ref());
    let inner = SupervisorSpec::new("inner")
        .window(Window::new(1, Duration::from_secs(60)))
        .child(a)
        .child(b);
    let tree = start(SupervisorSpec::new("node").supervisor(inner));
    crash(&a_ref).await;
    count_when_back(&a_ref).await;
    assert_eq!(b_ref.generation().0, 1);
    crash(&a_ref).await;
    eventually("b is restarted with it", || b_ref.generation().0 == 2).await;
    assert_eq!(
        (count_when_back(&a_ref).await, count_when_back(&b_ref).await),
        (1, 1)
    );
    let described = tree.describe();
    let inner = described.find("inner").expect("it is in the tree");
    assert_eq!(
        inner.last_exit.as_ref().map(|exit| exit.class.as_str()),
        Some("escalated")
    );
    assert_eq!((inner.generation.0, described.restarts_in_window), (2, 1));
    tree.stop(LONG).await;
}

#[actix_rt::test]
async fn starts_that_fail_count_as_restarts() {
    let journal = Journal::default();
    let works = ChildSpec::new("works", failing_starts(3, &journal));
    let fails = ChildSpec::new("fails", failing_starts(4, &journal));
    let (works_ref, fails_ref) = (works.child_ref(), fails.child_ref());
    let tree = start(
        SupervisorSpec::new("node")
            .child(works)
            .child(fails)
            .child(puppet("last", &journal)),
    );
    tree.wait_running("node", LONG)
        .await
        .expect("each runs or has been given up");
    assert_eq!(works_ref.generation().0, 4);
    assert_eq!(count_when_back(&works_ref).await, 1);
    assert_eq!(fails_ref.state(), ChildState::Quarantined);
    assert!(journal.has("start last 1"));
    tree.stop(LONG).await;
}

#[actix_rt::test]
async fn a_factory_that_panics_counts_as_a_failed_start() {
    let spec = ChildSpec::<Puppet>::new("a", |_| panic!("boom in factory"));
    let child = spec.child_ref();
    let tree = start(SupervisorSpec::new("node").child(spec));
    tree.wait_running("node", LONG)
        .await
        .expect("it has been given up");
    assert_eq!(
        (child.state(), child.generation().0),
        (ChildState::Quarantined, 4)
    );
    let exit = tree
        .describe()
        .find("a")
        .and_then(|a| a.last_exit.clone())
        .expect("it exited");
    assert_eq!(exit.text.as_deref(), Some("panicked: boom in factory"));
    tree.stop(LONG).await;
}

#[actix_rt::test]
async fn a_start_that_hangs_is_given_up_when_its_limit_is_over() {
    let journal = Journal::default();
    let tried = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let spec = ChildSpec::new_async("slow", move |start| {
        let (tried, journal) = (tried.clone(), journal.clone());
        async move {
            if tried.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 {
                std::future::pending::<()>().await;
            }
            Ok(Puppet::new(start, &journal))
        }
    })
    .start_limit(Duration::from_millis(50));
    let child = spec.child_ref();
    let tree = start(SupervisorSpec::new("node").child(spec));
    child
        .wait_running(LONG)
        .await
        .expect("the second start succeeds");
    let exit = tree
        .describe()
        .find("slow")
        .and_then(|slow| slow.last_exit.clone())
        .expect("it exited");
    assert_eq!(
        exit.text.as_deref(),
        Some("start failed: not started within 50ms")
    );
    tree.stop(LONG).await;
}

#[actix_rt::test]
async fn corrupt_data_quarantines_at_once() {
    let journal = Journal::default();
    let spec = puppet("a", &journal).window(endless());
    let child = spec.child_ref();
    let tree = start(SupervisorSpec::new("node").child(spec));
    child.wait_running(LONG).await.expect("it starts");
    let mut events = tree.subscribe();
    let _ = child
        .call(Leave(ExitReason::Corrupt("index".to_owned())), LONG)
        .await;
    eventually("it is quarantined", || {
        child.state() == ChildState::Quarantined
    })
    .await;
    assert_eq!(child.generation().0, 1);
    while !matches!(events.recv().await, Ok(TreeEvent::ChildQuarantined { .. })) {}
    tree.stop(LONG).await;
}

#[actix_rt::test]
async fn a_transient_child_that_is_done_stays_down() {
    let journal = Journal::default();
    let spec = puppet("a", &journal).restart(Restart::Transient);
    let child = spec.child_ref();
    let tree = start(SupervisorSpec::new("node").child(spec));
    child.wait_running(LONG).await.expect("it starts");
    let _ = child.call(Leave(ExitReason::Normal), LONG).await;
    eventually("it is down", || child.state() == ChildState::Stopped).await;
    assert_eq!(child.generation().0, 1);
    tree.stop(LONG).await;
}
