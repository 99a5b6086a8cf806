//! The runtime while it is being hit. BLYAN_PANICS and BLYAN_OVERLOAD_S make the runs long (`make storm`).

mod overload;
mod panics;

use std::time::Duration;

/// Long enough for anything that is going to happen on a loaded machine.
const LONG: Duration = Duration::from_secs(20);

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// The value below which `share` of them lie.
fn quantile(values: &mut [Duration], share: f64) -> Duration {
    values.sort_unstable();
    values[((values.len() - 1) as f64 * share) as usize]
}
