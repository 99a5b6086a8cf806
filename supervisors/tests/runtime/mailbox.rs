//! What a handle admits, and how it refuses.

use std::time::Duration;

use blyan_supervisors::{CallError, ChildRef, ChildState, SupervisorSpec};

use crate::puppet::{
    Block, Count, Hang, Journal, LONG, Latch, Puppet, Thread, eventually, puppet, start,
};

#[actix_rt::test]
async fn admission_is_bounded_whoever_sends() {
    let journal = Journal::default();
    let spec = puppet("a", &journal).mailbox_len_max(4).stuck_limit(None);
    let child = spec.child_ref();
    let tree = start(SupervisorSpec::new("node").child(spec));
    child.wait_running(LONG).await.expect("it starts");
    let latch = Latch::default();
    child.try_tell(Block(latch.clone())).expect("there is room");
    let admitted = (0..100)
        .filter(|_| child.clone().try_tell(Count).is_ok())
        .count();
    assert_eq!(admitted, 3, "four with the one that blocks");
    assert_eq!(child.mailbox_depth(), 4);
    assert!(matches!(
        child.call(Count, LONG).await,
        Err(CallError::Full { .. })
    ));
    latch.open();
    eventually("the mailbox drains", || child.mailbox_depth() == 0).await;
    assert_eq!(
        child.call(Count, LONG).await,
        Ok(4),
        "what was admitted was handled"
    );
    tree.stop(LONG).await;
}

#[actix_rt::test]
async fn an_answer_that_is_still_being_made_counts_as_admitted() {
    let journal = Journal::default();
    let spec = puppet("a", &journal).mailbox_len_max(1);
    let child = spec.child_ref();
    let tree = start(SupervisorSpec::new("node").child(spec));
    child.wait_running(LONG).await.expect("it starts");
    assert_eq!(
        child.call(Hang, Duration::from_millis(20)).await,
        Err(CallError::Timeout)
    );
    assert!(matches!(
        child.call(Count, LONG).await,
        Err(CallError::Full { .. })
    ));
    tree.stop(LONG).await;
}

#[actix_rt::test]
async fn a_call_whose_caller_gave_up_in_the_queue_is_not_handled() {
    let journal = Journal::default();
    let spec = puppet("a", &journal).stuck_limit(None);
    let child = spec.child_ref();
    let tree = start(SupervisorSpec::new("node").child(spec));
    child.wait_running(LONG).await.expect("it starts");
    let latch = Latch::default();
    child.try_tell(Block(latch.clone())).expect("there is room");
    assert_eq!(
        child.call(Count, Duration::from_millis(5)).await,
        Err(CallError::Timeout)
    );
    latch.open();
    assert_eq!(child.call(Count, LONG).await, Ok(1));
    tree.stop(LONG).await;
}

#[actix_rt::test]
async fn a_handle_refuses_before_the_start_and_after_the_end() {
    let journal = Journal::default();
    let child = ChildRef::<Puppet>::unbound();
    let spec = puppet("a", &journal).bind(&child);
    let stopped = |error| {
        matches!(
            error,
            Err(CallError::Down {
                state: ChildState::Stopped,
                ..
            })
        )
    };
    assert!(stopped(child.call(Count, LONG).await));
    assert_eq!((child.path(), child.generation().0), ("", 0));
    let tree =
        start(SupervisorSpec::new("node").supervisor(SupervisorSpec::new("inner").child(spec)));
    child.wait_running(LONG).await.expect("it starts");
    assert_eq!(child.call(Count, LONG).await, Ok(1));
    assert_eq!(child.path(), "inner/a");
    tree.stop(LONG).await;
    assert!(stopped(child.call(Count, LONG).await));
    assert!(child.wait_running(Duration::from_millis(5)).await.is_err());
}

#[actix_rt::test]
async fn each_placement_gets_its_thread() {
    use blyan_supervisors::Placement;
    let journal = Journal::default();
    let specs: Vec<_> = [
        ("own", Placement::OwnThread),
        ("shared-1", Placement::Shared),
        ("shared-2", Placement::Shared),
        ("local", Placement::Local),
    ]
    .into_iter()
    .map(|(id, placement)| puppet(id, &journal).placement(placement))
    .collect();
    let refs: Vec<_> = specs
        .iter()
        .map(blyan_supervisors::ChildSpec::child_ref)
        .collect();
    let tree = start(
        specs
            .into_iter()
            .fold(SupervisorSpec::new("node"), SupervisorSpec::child),
    );
    tree.wait_running("node", LONG).await.expect("it starts");
    let mut threads = Vec::new();
    for child in &refs {
        threads.push(child.call(Thread, LONG).await.expect("it runs"));
    }
    let here = format!("{:?}", std::thread::current().id());
    assert_eq!(threads[1], threads[2]);
    assert_eq!(threads[3], here);
    assert!(
        threads[0] != threads[1] && threads[0] != here && threads[1] != here,
        "{threads:?}"
    );
    tree.stop(LONG).await;
}
