//! A message through our handle beside raw actix, tokio's channels, ractor and kameo; a crash beside ractor and kameo.
//! `make bench-runtime`, with `ARGS="--json"` for the samples.
//!
//! Every actor counts its messages on a thread of its own with a current-thread runtime; the producers are tasks of
//! another. All are there from the start, and each round measures them one after the other, every other round
//! backwards: what disturbs the machine disturbs them alike, and ratios are of one round.

mod load;
mod peers;
mod report;

use clap::Parser;

use load::{Case, Lane, Scale};
use report::{Report, alternate};

/// Asks, tells and restarts, side by side
#[derive(Parser)]
struct Args {
    /// Rounds
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,
    /// The samples as JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Only the cases that begin so, for a profiler
    #[arg(long, default_value = "")]
    case: String,
    /// Only the lane of this name, for a profiler
    #[arg(long)]
    lane: Option<String>,
    /// Given by `cargo bench`; without it everything is run once and briefly
    #[arg(long)]
    bench: bool,
}

impl Args {
    /// `cargo test` hands its own arguments to benches too, which mean nothing here.
    fn given() -> Self {
        if std::env::args().any(|arg| arg == "--bench") {
            Self::parse()
        } else {
            Self::parse_from(["runtime"])
        }
    }
}

#[actix_rt::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::given();
    // Panics are the subject here; their texts would be what is measured.
    std::panic::set_hook(Box::new(|_| {}));
    let (pairs, scale) = if args.bench {
        (args.pairs, Scale::FULL)
    } else {
        (1, Scale::BRIEF)
    };
    let mut lanes = peers::start_all().await?;
    lanes.retain(|lane| args.lane.as_ref().is_none_or(|only| only == lane.name));
    let mut cases = Case::ALL.to_vec();
    cases.retain(|case| case.to_string().starts_with(&args.case));
    let report = measure(&lanes, &cases, pairs, scale).await;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{report}");
    }
    Ok(())
}

/// One round that is not counted, then `pairs` that are.
async fn measure(lanes: &[Lane], cases: &[Case], pairs: u32, scale: Scale) -> Report {
    let mut report = Report::new(lanes.iter().map(|lane| lane.name), cases);
    for &case in cases {
        for lane in lanes {
            lane.run(case, Scale::BRIEF).await;
        }
        for turn in 0..pairs {
            report.begin(case);
            for lane in alternate(lanes, turn) {
                if let Some(nanoseconds) = lane.run(case, scale).await {
                    report.add(case, lane.name, nanoseconds);
                }
            }
        }
    }
    report
}
