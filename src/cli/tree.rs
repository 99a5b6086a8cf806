use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};
use awc::http::Method;
use blyan_supervisors::TreeNode;
use clap::Args;

use super::node_api::NodeApi;
use crate::config::Config;

const WATCH: Duration = Duration::from_secs(1);
/// To the upper left, and everything below it away.
const CLEAR: &str = "\x1b[H\x1b[J";

/// `blyan tree`
#[derive(Debug, Args)]
pub struct TreeArgs {
    /// Again every second, until Ctrl-C
    #[arg(long, conflicts_with = "json")]
    watch: bool,
    /// As the node says it
    #[arg(long)]
    json: bool,
    /// The node [default: http:// and node.listen]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
}

pub fn run(config: &Config, args: &TreeArgs) -> Result<()> {
    // Texts of panics are for admins; whoever cannot read the key sees the rest.
    let api = NodeApi::new(config, args.url.as_deref());
    actix_rt::System::new().block_on(async {
        loop {
            let body = api.ask(Method::GET, "/supervision/tree").await?;
            let tree: TreeNode = serde_json::from_slice(&body).context("the node's answer")?;
            if args.json {
                println!("{}", serde_json::to_string_pretty(&tree)?);
            } else {
                let clear = if args.watch { CLEAR } else { "" };
                print!("{clear}{}", table(&tree));
            }
            if !args.watch {
                return Ok(());
            }
            tokio::time::sleep(WATCH).await;
        }
    })
}

/// A line for each node, its children below it.
fn table(tree: &TreeNode) -> String {
    let mut lines = vec![[
        "part".to_owned(),
        "state".to_owned(),
        "generation".to_owned(),
        "restarts".to_owned(),
        "waiting".to_owned(),
        "last exit, or why it is out".to_owned(),
    ]];
    collect(tree, "", "", &mut lines);
    let width = |column: usize| {
        let cells = lines.iter().map(|line| line[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut text = String::new();
    for line in &lines {
        let mut row = String::new();
        for (cell, width) in line.iter().zip(widths) {
            let _ = write!(row, "{cell:<width$}  ");
        }
        let _ = writeln!(text, "{}", row.trim_end());
    }
    text
}

fn collect(node: &TreeNode, first: &str, rest: &str, lines: &mut Vec<[String; 6]>) {
    let name = node.id.rsplit('/').next().unwrap_or(&node.id);
    lines.push([
        format!("{first}{name}"),
        node.state.to_string(),
        node.generation.to_string(),
        node.restarts_in_window.to_string(),
        node.mailbox_depth.to_string(),
        why(node),
    ]);
    let last = node.children.len().saturating_sub(1);
    for (at, child) in node.children.iter().enumerate() {
        let (branch, below) = if at == last {
            ("└─ ", "   ")
        } else {
            ("├─ ", "│  ")
        };
        let (first, rest) = (format!("{rest}{branch}"), format!("{rest}{below}"));
        collect(child, &first, &rest, lines);
    }
}

/// In one line: texts of panics may have more.
fn why(node: &TreeNode) -> String {
    let text = match (&node.quarantine_reason, &node.last_exit) {
        (Some(reason), _) => reason.clone(),
        (None, Some(exit)) => match &exit.text {
            Some(text) => format!("{}: {text}", exit.class),
            None => exit.class.clone(),
        },
        (None, None) => String::new(),
    };
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use blyan_supervisors::{ChildState, Generation, LastExit, NodeKind};

    use super::*;

    fn node(id: &str, children: Vec<TreeNode>) -> TreeNode {
        TreeNode {
            id: id.into(),
            kind: NodeKind::Worker,
            state: ChildState::Running,
            generation: Generation(1),
            restarts_in_window: 0,
            last_exit: None,
            quarantine_reason: None,
            mailbox_depth: 0,
            children,
        }
    }

    #[test]
    fn children_stand_below_their_parents_with_what_happened_to_them() {
        let mut sick = node("serving/replicas/inference-2", Vec::new());
        sick.state = ChildState::Quarantined;
        sick.last_exit = Some(LastExit {
            class: "panicked".into(),
            text: Some("a fault\nwith a second line".into()),
            at_ms: 0,
        });
        let replicas = node(
            "serving/replicas",
            vec![node("serving/replicas/inference-1", Vec::new()), sick],
        );
        let tree = node(
            "node",
            vec![node("serving", vec![replicas]), node("edge", Vec::new())],
        );
        let shown = table(&tree);
        let lines: Vec<_> = shown.lines().collect();
        assert!(lines[1].starts_with("node "));
        assert!(lines[4].starts_with("│     ├─ inference-1 "));
        assert!(lines[5].starts_with("│     └─ inference-2  quarantined "));
        assert!(lines[5].ends_with("panicked: a fault"));
        assert!(lines[6].starts_with("└─ edge "));
        assert_eq!(lines.len(), 7);
    }
}
