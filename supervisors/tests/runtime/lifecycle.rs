//! Starts, stops and what the tree says of itself.

use std::time::Duration;

use blyan_supervisors::{
    Backoff, CallError, ChildSpec, ChildState, NodeKind, SpecError, SupervisorSpec, Tree, TreeExit,
    TreeNode, TreeOptions, Window,
};

use crate::puppet::{
    Boom, Count, Journal, LONG, Puppet, Where, count_when_back, eventually, puppet, start,
};

fn nested(journal: &Journal) -> SupervisorSpec {
    let inner = SupervisorSpec::new("inner")
        .child(puppet("b", journal))
        .child(puppet("c", journal));
    SupervisorSpec::new("node")
        .child(puppet("a", journal))
        .supervisor(inner)
        .child(puppet("d", journal))
}

#[actix_rt::test]
async fn children_start_left_to_right_and_stop_right_to_left() {
    let journal = Journal::default();
    let tree = start(nested(&journal));
    tree.wait_running("node", LONG).await.expect("it starts");
    assert_eq!(
        journal.lines(),
        [
            "start a 1",
            "start inner/b 1",
            "start inner/c 1",
            "start d 1"
        ]
    );
    assert_eq!(tree.stop(LONG).await, TreeExit::Stopped);
    let stopped: Vec<String> = journal.lines().split_off(4);
    let order = ["d", "inner/c", "inner/b", "a"];
    let expected: Vec<String> = order
        .iter()
        .flat_map(|id| [format!("stopped {id}"), format!("drop {id}")])
        .collect();
    assert_eq!(stopped, expected, "each is gone before the next is asked");
}

#[actix_rt::test]
async fn the_tree_describes_itself_as_json() {
    let journal = Journal::default();
    let tree = start(nested(&journal));
    tree.wait_running("node", LONG).await.expect("it starts");
    let described = tree.describe();
    let ids: Vec<&str> = described
        .children
        .iter()
        .map(|child| child.id.as_str())
        .collect();
    assert_eq!(
        (described.id.as_str(), described.kind),
        ("node", NodeKind::Supervisor)
    );
    assert_eq!(ids, ["a", "inner", "d"]);
    let json = serde_json::to_value(described.find("inner/b")).expect("it is plain data");
    let expected = serde_json::json!({
        "id": "inner/b", "kind": "worker", "state": "running", "generation": 1, "restarts_in_window": 0,
        "last_exit": null, "mailbox_depth": 0, "children": [],
    });
    assert_eq!(json, expected);
    tree.stop(LONG).await;
}

#[actix_rt::test]
async fn a_redacted_tree_keeps_the_class_of_an_exit_and_drops_its_text() {
    let journal = Journal::default();
    let spec = puppet("a", &journal);
    let child = spec.child_ref();
    let tree = start(SupervisorSpec::new("node").child(spec));
    count_when_back(&child).await;
    assert_eq!(
        child.call(Boom(Where::Handler), LONG).await,
        Err(CallError::Lost)
    );
    count_when_back(&child).await;
    let json = serde_json::to_string(&tree.describe().redacted()).expect("it is plain data");
    assert!(
        json.contains("\"class\":\"panicked\"") && !json.contains("boom"),
        "{json}"
    );
    let back: TreeNode = serde_json::from_str(&json).expect("it reads back");
    assert_eq!(back.id, "node");
    tree.stop(LONG).await;
}

#[actix_rt::test]
async fn children_can_come_and_go() {
    let journal = Journal::default();
    let tree = start(SupervisorSpec::new("node").supervisor(SupervisorSpec::new("learning")));
    tree.wait_running("node", LONG).await.expect("it starts");
    let spec = puppet("tile-1", &journal);
    let child = spec.child_ref();
    tree.add_child("learning", spec)
        .await
        .expect("the id is free");
    assert_eq!(count_when_back(&child).await, 1);
    let again = tree.add_child("learning", puppet("tile-1", &journal)).await;
    assert!(again.is_err(), "the id is taken");
    assert!(
        tree.add_child("learning/tile-1", puppet("x", &journal))
            .await
            .is_err(),
        "a worker has no children"
    );
    tree.remove_child("learning/tile-1")
        .await
        .expect("it is in the tree");
    eventually("it is gone", || journal.has("drop learning/tile-1")).await;
    eventually("the tree forgets it", || {
        tree.describe().children[0].children.is_empty()
    })
    .await;
    tree.add_child("learning", puppet("tile-1", &journal))
        .await
        .expect("the id is free again");
    tree.stop(LONG).await;
}

#[actix_rt::test]
async fn specs_that_make_no_sense_are_refused_at_start() {
    let journal = Journal::default();
    let refused = |spec: SupervisorSpec| Tree::start(spec, TreeOptions::default()).err();
    let root = || SupervisorSpec::new("node");
    let twice = root()
        .child(puppet("a", &journal))
        .child(puppet("a", &journal));
    assert_eq!(
        refused(twice),
        Some(SpecError::DuplicateId {
            path: "a".to_owned()
        })
    );
    let bad = root().child(puppet("a/b", &journal));
    assert_eq!(
        refused(bad),
        Some(SpecError::BadId {
            id: "a/b".to_owned()
        })
    );
    let empty = root().child(puppet("a", &journal).window(Window::new(3, Duration::ZERO)));
    assert_eq!(
        refused(empty),
        Some(SpecError::EmptyWindow {
            path: "a".to_owned()
        })
    );
    let closed = root().child(puppet("a", &journal).mailbox_len_max(0));
    assert!(matches!(
        refused(closed),
        Some(SpecError::MailboxBound { .. })
    ));
    let spec = puppet("a", &journal);
    let bound_twice = root()
        .child(puppet("b", &journal).bind(&spec.child_ref()))
        .child(spec);
    assert_eq!(
        refused(bound_twice),
        Some(SpecError::BoundTwice {
            path: "a".to_owned()
        })
    );
}

#[actix_rt::test]
async fn a_back_off_that_keeps_a_window_from_filling_is_refused() {
    let journal = Journal::default();
    let slow = Backoff {
        initial: Duration::from_secs(30),
        max: Duration::from_secs(30),
        jitter_percent: 0,
    };
    // Three restarts pause for 0 + 30 + 30 s: exactly as long as the window.
    let own = SupervisorSpec::new("node").child(puppet("a", &journal).backoff(slow));
    assert!(matches!(
        own.validate(),
        Err(SpecError::WindowNeverFills {
            max_restarts: 3,
            ..
        })
    ));
    // Without a window of its own, ten restarts have to fit into the supervisor's.
    let edge = puppet("edge", &journal).quarantine(false).backoff(Backoff {
        initial: Duration::from_secs(7),
        max: Duration::from_secs(7),
        jitter_percent: 0,
    });
    let parents = SupervisorSpec::new("node").child(edge);
    assert!(matches!(
        parents.validate(),
        Err(SpecError::WindowNeverFills {
            max_restarts: 10,
            ..
        })
    ));
    let default =
        SupervisorSpec::new("node").child(puppet("a", &journal).backoff(Backoff::default()));
    assert_eq!(default.validate(), Ok(()));
}

#[test]
fn without_an_actix_system_only_a_local_tree_can_start() {
    let journal = Journal::default();
    let spec = || SupervisorSpec::new("node").child(puppet("a", &journal));
    let refused = Tree::start(spec(), TreeOptions::default()).err();
    assert_eq!(refused, Some(SpecError::NoSystem));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let options = TreeOptions {
            local: true,
            ..TreeOptions::default()
        };
        let a = puppet("a", &journal);
        let child = a.child_ref();
        let tree = Tree::start(SupervisorSpec::new("node").child(a), options)
            .expect("no threads are needed");
        assert_eq!(count_when_back(&child).await, 1);
        assert_eq!(
            child.call(Boom(Where::Handler), LONG).await,
            Err(CallError::Lost)
        );
        assert_eq!(count_when_back(&child).await, 1);
        assert_eq!(tree.stop(LONG).await, TreeExit::Stopped);
    });
}

#[actix_rt::test]
async fn tasks_end_with_their_generation() {
    let journal = Journal::default();
    let noted = journal.clone();
    let spec = ChildSpec::new("a", move |start| {
        let guard = Noted(noted.clone());
        start.spawn(async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        });
        Ok(Puppet::new(start, &noted))
    });
    let child = spec.child_ref();
    let tree = start(SupervisorSpec::new("node").child(spec));
    count_when_back(&child).await;
    assert!(!journal.has("task dropped"));
    assert_eq!(
        child.call(Boom(Where::Handler), LONG).await,
        Err(CallError::Lost)
    );
    assert_eq!(count_when_back(&child).await, 1);
    let order = ["start a 1", "drop a", "task dropped", "start a 2"];
    assert_eq!(
        journal.lines(),
        order,
        "the next generation starts when nothing is left of the last"
    );
    tree.stop(LONG).await;
    assert_eq!(child.state(), ChildState::Stopped);
    assert!(child.call(Count, LONG).await.is_err());
}

struct Noted(Journal);

impl Drop for Noted {
    fn drop(&mut self) {
        self.0.note("task dropped".to_owned());
    }
}
