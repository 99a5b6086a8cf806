//! What the orchestrator shows.

use std::collections::BTreeSet;

use crate::core::{Component, Standing, Standings};
use crate::handle::ComponentStatus;

pub(crate) fn status(
    path: &str,
    standing: Standing,
    component: Option<&Component>,
) -> ComponentStatus {
    let trust = match &standing {
        Standing::Healthy => 100,
        Standing::Probing(_) => 50,
        Standing::Quarantined(_) => 0,
    };
    ComponentStatus {
        path: path.to_owned(),
        standing,
        component: component.cloned(),
        trust,
    }
}

/// All that the tree or the audit log knows, by path.
pub(crate) fn components(standings: &Standings, components: &[Component]) -> Vec<ComponentStatus> {
    let known = components.iter().map(|component| component.path.as_str());
    let paths: BTreeSet<_> = known
        .chain(standings.iter().map(|(path, _)| path))
        .collect();
    let find = |path: &str| components.iter().find(|component| component.path == path);
    paths
        .into_iter()
        .map(|path| status(path, standings.of(path), find(path)))
        .collect()
}

/// 100 where there is nothing to distrust.
pub(crate) fn mean_trust(components: &[ComponentStatus]) -> u8 {
    let sum: usize = components
        .iter()
        .map(|component| usize::from(component.trust))
        .sum();
    let mean = sum.checked_div(components.len());
    mean.map_or(100, |mean| u8::try_from(mean).unwrap_or(100))
}
