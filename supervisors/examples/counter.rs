//! A child that fails every third time, a handle that does not care, and the tree at the end.
//!
//! `cargo run -p blyan-supervisors --example counter`

use std::time::Duration;

use actix::{Actor, Context, Handler, Message};
use blyan_supervisors::{ChildSpec, SupervisorSpec, Tree, TreeOptions};

struct Counter(u32);

impl Actor for Counter {
    type Context = Context<Self>;
}

#[derive(Message)]
#[rtype(u32)]
struct Count;

impl Handler<Count> for Counter {
    type Result = u32;

    fn handle(&mut self, _: Count, _: &mut Self::Context) -> u32 {
        self.0 += 1;
        assert!(!self.0.is_multiple_of(3), "three is too many");
        self.0
    }
}

#[actix_rt::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let counter = ChildSpec::new("counter", |_start| Ok(Counter(0)));
    let handle = counter.child_ref();
    let tree = Tree::start(
        SupervisorSpec::new("node").child(counter),
        TreeOptions::default(),
    )?;
    for _ in 0..20 {
        match handle.call(Count, Duration::from_secs(1)).await {
            Ok(count) => println!("generation {} counts {count}", handle.generation()),
            Err(refusal) => println!("refused: {refusal}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("{}", serde_json::to_string_pretty(&tree.describe())?);
    println!(
        "the tree has ended: {}",
        tree.stop(Duration::from_secs(1)).await
    );
    Ok(())
}
