mod messages;
mod questions;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use actix::fut::{ActorFutureExt, WrapFuture, ready};
use actix::{Actor, AsyncContext, Context, Handler, ResponseActFuture};
use blyan_supervisors::{ChildSpec, ExitHandle, ExitReason, Probe, StartContext};
use tokio::sync::broadcast;

use crate::audit::{Action, AuditError, AuditLog, AuditOptions, Record, RecordOutcome};
use crate::core::{Alert, Decided, Effect, Orchestrator, Report, Step, Verdict};
use crate::effects::{Ended, run, run_all};
use crate::handle::{SecurityEvent, SecurityHandle};
use crate::{Ports, SecurityConfig, metrics};

use messages::Reply;
pub(crate) use messages::{
    Decide, Enforce, GetDashboard, GetIndicators, GetQuarantined, GetStatus, Tell,
};

/// Where tests put faults in.
const PROBE_POINT: &str = "security";
/// Between a durable decision and what carries it out.
const DECIDED_POINT: &str = "security_decided";

/// How long a start may take: the whole audit log is replayed.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long one sync of the disk may take.
const STUCK_LIMIT: Duration = Duration::from_secs(30);
const EVENTS_LEN_MAX: usize = 256;
/// Alerts that the dashboard shows.
const ALERTS_LEN_MAX: usize = 64;

/// What of the log stands on chain A.
#[derive(Default)]
struct Anchoring {
    count: u64,
    at_ms: u64,
    running: bool,
    /// Do not wait for the next minute.
    due: bool,
}

/// Rules on what happens to components, writes it down, and only then carries it out. Each generation replays the
/// audit log.
pub struct SecurityOrchestrator {
    core: Orchestrator,
    log: AuditLog,
    ports: Ports,
    config: SecurityConfig,
    events: broadcast::Sender<SecurityEvent>,
    alerts: VecDeque<Alert>,
    anchoring: Anchoring,
    /// Components that an effect is working on.
    busy: BTreeSet<String>,
    probe: Arc<dyn Probe>,
    exit: ExitHandle,
}

impl SecurityOrchestrator {
    /// A permanent child on a thread of its own, and its handle. It has no window of its own: where it cannot run,
    /// its supervisor gives up.
    pub fn spec(
        id: impl Into<String>,
        audit: AuditOptions,
        ports: Ports,
        config: &SecurityConfig,
    ) -> (ChildSpec<Self>, SecurityHandle) {
        let (events, _) = broadcast::channel(EVENTS_LEN_MAX);
        let (shared, held) = (events.clone(), config.clone());
        let spec = ChildSpec::new(id, move |start| {
            Self::recover(&start, audit.clone(), &ports, &held, &shared).map_err(ExitReason::from)
        })
        .mailbox_len_max(config.mailbox_len_max)
        .start_limit(START_LIMIT)
        .stuck_limit(STUCK_LIMIT)
        .quarantine(false);
        let handle = SecurityHandle::new(spec.child_ref(), events, config);
        (spec, handle)
    }

    fn recover(
        start: &StartContext,
        audit: AuditOptions,
        ports: &Ports,
        config: &SecurityConfig,
        events: &broadcast::Sender<SecurityEvent>,
    ) -> Result<Self, AuditError> {
        let mut core = Orchestrator::new(config.rules(), &**start.path());
        let now_ms = (ports.now_ms)();
        let log = AuditLog::open(audit, now_ms, &mut |record| core.apply(&record.entry()))?;
        let count = log.anchor().count;
        tracing::info!(records = count, generation = ?start.generation(), "the audit log is open");
        metrics::quarantined(core.standings());
        Ok(Self {
            core,
            log,
            ports: ports.clone(),
            config: config.clone(),
            events: events.clone(),
            alerts: VecDeque::new(),
            anchoring: Anchoring::default(),
            busy: BTreeSet::new(),
            probe: Arc::clone(start.probe()),
            exit: start.exit_handle(),
        })
    }

    fn now_ms(&self) -> u64 {
        (self.ports.now_ms)()
    }

    /// Makes a step's entries durable and follows them; nobody hears of them before. On an error nothing was decided
    /// and this generation ends, but for a want of room, with which it waits for some.
    fn commit(&mut self, step: &Step, ctx: &mut Context<Self>) -> Reply<Vec<Record>> {
        let appended = self.log.append(&step.entries);
        let records = appended.inspect_err(|error| {
            tracing::error!(%error, "nothing is decided until the audit log can be written");
            if !matches!(error, AuditError::NoRoom(_)) {
                self.exit.exit(error.clone().into());
            }
        })?;
        for record in &records {
            self.core.apply(&record.entry());
            metrics::recorded(record);
            // Nobody needs to listen.
            let _ = self.events.send(SecurityEvent::Recorded(record.clone()));
        }
        metrics::quarantined(self.core.standings());
        for alert in &step.alerts {
            self.raise(alert);
        }
        self.probe.hit(DECIDED_POINT);
        if records.iter().any(is_quarantine) {
            self.anchor(ctx);
        }
        Ok(records)
    }

    fn raise(&mut self, alert: &Alert) {
        metrics::alerted(alert.indicator.as_str());
        tracing::warn!(indicator = alert.indicator.as_str(), count = alert.count, subject = %alert.subject, "threshold crossed");
        self.alerts.push_front(alert.clone());
        self.alerts.truncate(ALERTS_LEN_MAX);
        let _ = self.events.send(SecurityEvent::Alert(alert.clone()));
        self.ports.alerts.alert(alert);
    }

    /// Commits a step and carries it out in the background.
    fn follow(&mut self, step: &Step, ctx: &mut Context<Self>) -> Reply<()> {
        if !step.is_empty() {
            self.commit(step, ctx)?;
            self.carry_out(step, ctx);
        }
        Ok(())
    }

    fn carry_out(&mut self, step: &Step, ctx: &mut Context<Self>) {
        let mut effects = step.effects.clone();
        // A tick says again what still holds.
        effects.retain(|effect| !effect.is_quarantine() || !self.busy.contains(effect.path()));
        for effect in effects {
            self.busy.insert(effect.path().to_owned());
            let limit = self.config.decide_timeout();
            let running = run(self.ports.components.clone(), effect, limit);
            ctx.spawn(running.into_actor(self).map(|ended, actor, ctx| {
                actor.ended(&ended, ctx);
            }));
        }
    }

    /// Takes up how an effect went. A commit that fails here ends the generation, so there is nobody to tell.
    fn ended(&mut self, ended: &Ended, ctx: &mut Context<Self>) {
        self.busy.remove(ended.effect.path());
        if let Err(why) = &ended.result {
            tracing::warn!(
                path = ended.effect.path(),
                why,
                "a decision did not take effect"
            );
        }
        let step = ended.follow_up(&self.core, self.now_ms());
        let _ = self.follow(&step, ctx);
    }

    /// Puts what the log holds on chain A, one anchor at a time.
    fn anchor(&mut self, ctx: &mut Context<Self>) {
        let anchor = self.log.anchor();
        if self.anchoring.running {
            self.anchoring.due = true;
            return;
        }
        if anchor.count == self.anchoring.count {
            return;
        }
        self.anchoring.running = true;
        self.anchoring.due = false;
        let sink = Arc::clone(&self.ports.anchors);
        let anchored = async move { sink.anchor(anchor).await };
        ctx.spawn(anchored.into_actor(self).map(move |result, actor, ctx| {
            actor.anchoring.running = false;
            match result {
                Ok(()) => actor.anchored(anchor.count, ctx),
                Err(error) => {
                    tracing::warn!(%error, count = anchor.count, "the audit log is not anchored");
                    actor.anchoring.due = true;
                }
            }
        }));
    }

    fn anchored(&mut self, count: u64, ctx: &mut Context<Self>) {
        metrics::anchored(count);
        self.anchoring.count = count;
        self.anchoring.at_ms = self.now_ms();
        if self.anchoring.due {
            self.anchor(ctx);
        }
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        self.probe.hit(PROBE_POINT);
        let now_ms = self.now_ms();
        let components = self.ports.components.list();
        let step = self.core.tick(&components, now_ms);
        // A failed commit has ended this generation.
        let _ = self.follow(&step, ctx);
        let waited = now_ms.abs_diff(self.anchoring.at_ms) >= self.config.anchor_every_ms;
        if self.anchoring.due || waited {
            self.anchor(ctx);
        }
    }

    fn decided(&self, path: &str, changed: bool, record: u64) -> Decided {
        Decided {
            path: path.to_owned(),
            standing: self.core.standings().of(path),
            changed,
            record,
        }
    }
}

fn is_quarantine(record: &Record) -> bool {
    record.action == Action::Quarantine && record.outcome == RecordOutcome::Done
}

impl Actor for SecurityOrchestrator {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let step = self.core.start(self.now_ms());
        // A failed commit has ended this generation.
        let _ = self.follow(&step, ctx);
        ctx.run_interval(self.config.tick(), Self::tick);
    }
}

impl Handler<Decide> for SecurityOrchestrator {
    type Result = ResponseActFuture<Self, Reply<Decided>>;

    fn handle(&mut self, Decide(order): Decide, ctx: &mut Context<Self>) -> Self::Result {
        self.probe.hit(PROBE_POINT);
        let components = self.ports.components.list();
        let (mut step, verdict) = self.core.order(&order, &components, self.now_ms());
        let records = match self.commit(&step, ctx) {
            Ok(records) => records,
            Err(error) => return Box::pin(ready(Err(error))),
        };
        let record = records.first().map_or(0, |record| record.seq);
        let effect = step.effects.pop();
        let effect = match (verdict, effect) {
            (Verdict::Refused(refusal), _) => return Box::pin(ready(Err(refusal.into()))),
            (Verdict::Carry, Some(effect)) => effect,
            (_, _) => return Box::pin(ready(Ok(self.decided(&order.path, false, record)))),
        };
        self.busy.insert(effect.path().to_owned());
        let limit = self.config.decide_timeout();
        let running = run(self.ports.components.clone(), effect, limit);
        Box::pin(running.into_actor(self).map(move |ended, actor, ctx| {
            actor.ended(&ended, ctx);
            ended.into_reply()?;
            Ok(actor.decided(&order.path, true, record))
        }))
    }
}

impl Handler<Tell> for SecurityOrchestrator {
    type Result = Reply<()>;

    fn handle(&mut self, Tell(report): Tell, ctx: &mut Context<Self>) -> Self::Result {
        self.probe.hit(PROBE_POINT);
        metrics::reported();
        let now_ms = self.now_ms();
        if let Report::Exited { path, reason } = &report {
            let _ = self.events.send(SecurityEvent::Exited {
                path: path.clone(),
                class: reason.class().to_owned(),
                at_ms: now_ms,
            });
        }
        let components = self.ports.components.list();
        let step = self.core.report(&report, &components, now_ms);
        self.follow(&step, ctx)
    }
}

impl Handler<Enforce> for SecurityOrchestrator {
    type Result = ResponseActFuture<Self, Reply<()>>;

    fn handle(&mut self, _: Enforce, ctx: &mut Context<Self>) -> Self::Result {
        self.probe.hit(PROBE_POINT);
        let mut step = self.core.tick(&self.ports.components.list(), self.now_ms());
        if let Err(error) = self.commit(&step, ctx) {
            return Box::pin(ready(Err(error)));
        }
        let (waited_for, others) = step.effects.drain(..).partition(Effect::is_quarantine);
        step.effects = others;
        self.carry_out(&step, ctx);
        let (components, limit) = (self.ports.components.clone(), self.config.decide_timeout());
        let taken_out = run_all(components, waited_for, limit);
        Box::pin(taken_out.into_actor(self).map(|ended, _, _| {
            let mut replies = ended.into_iter().map(Ended::into_reply);
            replies.find(Result::is_err).unwrap_or(Ok(()))
        }))
    }
}
