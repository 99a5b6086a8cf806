//! What changes nothing.

use actix::{Context, Handler};

use super::SecurityOrchestrator;
use super::messages::{GetDashboard, GetIndicators, GetQuarantined, GetStatus, Reply};
use crate::core::{Component, IndicatorState, Refusal, Standing};
use crate::handle::{ComponentStatus, Dashboard};
use crate::view;

impl SecurityOrchestrator {
    fn status(&self, path: &str, components: &[Component]) -> Reply<ComponentStatus> {
        let component = components.iter().find(|component| component.path == path);
        let standing = self.core.standings().of(path);
        if component.is_none() && standing == Standing::Healthy {
            return Err(Refusal::Unknown(path.to_owned()).into());
        }
        Ok(view::status(path, standing, component))
    }
}

impl Handler<GetStatus> for SecurityOrchestrator {
    type Result = Reply<ComponentStatus>;

    fn handle(&mut self, GetStatus(path): GetStatus, _: &mut Context<Self>) -> Self::Result {
        self.status(&path, &self.ports.components.list())
    }
}

impl Handler<GetQuarantined> for SecurityOrchestrator {
    type Result = Reply<Vec<String>>;

    fn handle(&mut self, _: GetQuarantined, _: &mut Context<Self>) -> Self::Result {
        let standings = self.core.standings().iter();
        Ok(standings.map(|(path, _)| path.to_owned()).collect())
    }
}

impl Handler<GetIndicators> for SecurityOrchestrator {
    type Result = Reply<Vec<IndicatorState>>;

    fn handle(&mut self, _: GetIndicators, _: &mut Context<Self>) -> Self::Result {
        let now_ms = self.now_ms();
        Ok(self.core.indicators(now_ms))
    }
}

impl Handler<GetDashboard> for SecurityOrchestrator {
    type Result = Reply<Dashboard>;

    fn handle(&mut self, _: GetDashboard, _: &mut Context<Self>) -> Self::Result {
        let at_ms = self.now_ms();
        let components = view::components(self.core.standings(), &self.ports.components.list());
        Ok(Dashboard {
            at_ms,
            integrity_score: view::mean_trust(&components),
            components,
            threat_indicators: self.core.indicators(at_ms),
            alerts: self.alerts.iter().cloned().collect(),
            audit: self.log.anchor(),
            audit_anchored_count: self.anchoring.count,
        })
    }
}
