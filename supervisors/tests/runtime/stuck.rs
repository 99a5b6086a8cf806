//! A child that does not come back from a poll loses its thread, not its callers.

use std::time::Duration;

use blyan_supervisors::{
    CallError, Generation, Placement, Shutdown, SupervisorSpec, Tree, TreeEvent, TreeExit,
    TreeOptions,
};

use crate::puppet::{
    Block, Count, Journal, LONG, Latch, count_when_back, endless, eventually, puppet, start,
};

const LIMIT: Duration = Duration::from_millis(60);

#[actix_rt::test]
async fn a_stuck_child_is_replaced_and_its_zombie_drops_itself_when_it_wakes() {
    let journal = Journal::default();
    let spec = puppet("a", &journal).stuck_limit(LIMIT);
    let child = spec.child_ref();
    let tree = start(SupervisorSpec::new("node").child(spec));
    child.wait_running(LONG).await.expect("it starts");
    let latch = Latch::default();
    let (stuck, waiting) = tokio::join!(
        child.call(Block(latch.clone()), LONG),
        child.call(Count, LONG)
    );
    assert_eq!(
        (stuck, waiting),
        (Err(CallError::Lost), Err(CallError::Lost))
    );
    assert_eq!(count_when_back(&child).await, 1);
    assert_eq!(child.generation(), Generation(2));
    assert_eq!(tree.zombies(), 1);
    let exit = tree
        .describe()
        .find("a")
        .and_then(|a| a.last_exit.clone())
        .expect("it exited");
    assert_eq!(exit.class, "stuck");
    assert!(!journal.has("drop a"), "the zombie still owns its state");
    latch.open();
    eventually("the zombie returns", || {
        tree.zombies() == 0 && journal.has("drop a")
    })
    .await;
    assert_eq!(
        child.call(Count, LONG).await,
        Ok(2),
        "the new generation is untouched"
    );
    tree.stop(LONG).await;
}

#[actix_rt::test]
async fn who_shares_the_thread_of_a_stuck_child_is_moved_without_being_blamed() {
    let journal = Journal::default();
    let stuck = puppet("stuck", &journal)
        .placement(Placement::Shared)
        .stuck_limit(LIMIT);
    let neighbour = puppet("neighbour", &journal).placement(Placement::Shared);
    let (stuck_ref, neighbour_ref) = (stuck.child_ref(), neighbour.child_ref());
    let tree = start(SupervisorSpec::new("node").child(stuck).child(neighbour));
    tree.wait_running("node", LONG).await.expect("it starts");
    let latch = Latch::default();
    assert_eq!(
        stuck_ref.call(Block(latch.clone()), LONG).await,
        Err(CallError::Lost)
    );
    count_when_back(&stuck_ref).await;
    eventually("the neighbour moves", || {
        neighbour_ref.generation() == Generation(2)
    })
    .await;
    count_when_back(&neighbour_ref).await;
    let tree_now = tree.describe();
    let restarts = |path: &str| tree_now.find(path).map(|node| node.restarts_in_window);
    assert_eq!(
        (restarts("stuck"), restarts("neighbour")),
        (Some(1), Some(0))
    );
    latch.open();
    eventually("the thread returns", || tree.zombies() == 0).await;
    tree.stop(LONG).await;
}

#[actix_rt::test]
async fn more_zombies_than_allowed_end_the_tree_with_a_reason_of_their_own() {
    let journal = Journal::default();
    let spec = puppet("a", &journal).stuck_limit(LIMIT).window(endless());
    let child = spec.child_ref();
    let options = TreeOptions {
        zombies_max: 1,
        ..TreeOptions::default()
    };
    let tree = Tree::start(SupervisorSpec::new("node").child(spec), options)
        .expect("the spec is well-formed");
    let latch = Latch::default();
    for _ in 0..2 {
        count_when_back(&child).await;
        assert_eq!(
            child.call(Block(latch.clone()), LONG).await,
            Err(CallError::Lost)
        );
    }
    assert_eq!(
        tree.wait().await,
        TreeExit::TooManyZombies {
            zombies: 2,
            limit: 1
        }
    );
    latch.open();
}

#[actix_rt::test]
async fn a_storm_on_one_thread_leaves_another_alone() {
    let journal = Journal::default();
    let storm = puppet("storm", &journal).window(endless());
    let calm = puppet("calm", &journal);
    let (storm_ref, calm_ref) = (storm.child_ref(), calm.child_ref());
    let tree = start(
        SupervisorSpec::new("node")
            .window(endless())
            .child(storm)
            .child(calm),
    );
    tree.wait_running("node", LONG).await.expect("it starts");
    let mut answers = 0;
    while storm_ref.generation() < Generation(200) {
        let _ = storm_ref.try_tell(crate::puppet::Boom(crate::puppet::Where::Handler));
        answers += 1;
        assert_eq!(
            calm_ref.call(Count, LONG).await,
            Ok(answers),
            "one answer for each question"
        );
    }
    assert_eq!(calm_ref.generation(), Generation(1));
    tree.stop(LONG).await;
}

#[actix_rt::test]
async fn a_child_that_does_not_stop_in_time_is_killed_and_then_abandoned() {
    let journal = Journal::default();
    let first = puppet("first", &journal);
    let blocked = puppet("blocked", &journal)
        .stuck_limit(None)
        .shutdown(Shutdown::Timeout(Duration::from_millis(20)));
    let blocked_ref = blocked.child_ref();
    let tree = start(SupervisorSpec::new("node").child(first).child(blocked));
    tree.wait_running("node", LONG).await.expect("it starts");
    let latch = Latch::default();
    blocked_ref
        .try_tell(Block(latch.clone()))
        .expect("there is room");
    latch.reached_by(1).await;
    let mut events = tree.subscribe();
    assert_eq!(tree.stop(LONG).await, TreeExit::Stopped);
    let mut seen = Vec::new();
    while let Ok(event) = events.try_recv() {
        match event {
            TreeEvent::ThreadAbandoned { path, .. } => seen.push(format!("abandoned {path}")),
            TreeEvent::ChildExited { path, reason, .. } => {
                seen.push(format!("{path} {}", reason.class()))
            }
            _ => {}
        }
    }
    assert_eq!(
        seen,
        [
            "abandoned blocked",
            "blocked killed",
            "first shutdown",
            "node shutdown"
        ]
    );
    latch.open();
}

#[actix_rt::test]
async fn a_stop_over_its_deadline_names_who_was_left() {
    let journal = Journal::default();
    let spec = puppet("a", &journal)
        .stuck_limit(None)
        .shutdown(Shutdown::Infinity);
    let child = spec.child_ref();
    let tree = start(SupervisorSpec::new("node").child(spec));
    child.wait_running(LONG).await.expect("it starts");
    let latch = Latch::default();
    let blocked = child.call(Block(latch.clone()), LONG);
    let stop = async {
        latch.reached_by(1).await;
        tree.stop(Duration::from_millis(30)).await
    };
    let (answer, exit) = tokio::join!(blocked, stop);
    assert_eq!(answer, Err(CallError::Lost));
    assert_eq!(
        exit,
        TreeExit::StopOverrun {
            left: vec!["a".to_owned()]
        }
    );
    latch.open();
}
