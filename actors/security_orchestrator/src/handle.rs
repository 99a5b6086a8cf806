use std::time::Duration;

use actix::{Actor, Context, Handler, Message};
use blyan_supervisors::{CallError, ChildRef};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::actor::{
    Decide, Enforce, GetDashboard, GetIndicators, GetQuarantined, GetStatus, SecurityOrchestrator,
    Tell,
};
use crate::audit::{Anchor, Record};
use crate::core::{Alert, Component, Decided, IndicatorState, Order, Report, Standing};
use crate::{SecurityConfig, SecurityError};

/// One component, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentStatus {
    /// Its path.
    pub path: String,
    /// What was decided.
    #[serde(flatten)]
    pub standing: Standing,
    /// What the tree says; `None` where the tree has no such component now.
    pub component: Option<Component>,
    /// 0 to 100: 100 healthy, 50 while a recovery is tried, else 0 (SEC-15).
    pub trust: u8,
}

/// What SEC-15 asks to see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dashboard {
    /// Milliseconds since 1970-01-01 UTC.
    pub at_ms: u64,
    /// Mean trust of all components, 0 to 100.
    pub integrity_score: u8,
    /// All components that the tree or the audit log knows, by path.
    pub components: Vec<ComponentStatus>,
    /// The indicators of SEC-21.
    pub threat_indicators: Vec<IndicatorState>,
    /// The latest alerts since this generation began, newest first.
    pub alerts: Vec<Alert>,
    /// Records in the audit log, and the last one's hash.
    pub audit: Anchor,
    /// Records that chain A holds fast; what was cut off after them could not be found.
    pub audit_anchored_count: u64,
}

/// Something that happened, for `GET /security/events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum SecurityEvent {
    /// A durable audit record.
    Recorded(Record),
    /// A threshold was crossed; its record went before.
    Alert(Alert),
    /// A generation of a component ended abnormally. The words of the exit are left out.
    Exited {
        /// The component.
        path: String,
        /// `ExitReason::class`.
        class: String,
        /// Milliseconds since 1970-01-01 UTC.
        at_ms: u64,
    },
}

/// What other parts call. It outlives restarts of the orchestrator; while that is down every call is refused at once,
/// and what was quarantined stays so.
#[derive(Clone)]
pub struct SecurityHandle {
    child: ChildRef<SecurityOrchestrator>,
    events: broadcast::Sender<SecurityEvent>,
    reply_timeout: Duration,
    decide_timeout: Duration,
}

impl SecurityHandle {
    pub(crate) fn new(
        child: ChildRef<SecurityOrchestrator>,
        events: broadcast::Sender<SecurityEvent>,
        config: &SecurityConfig,
    ) -> Self {
        Self {
            child,
            events,
            reply_timeout: Duration::from_millis(config.reply_timeout_ms),
            decide_timeout: Duration::from_millis(config.decide_timeout_ms),
        }
    }

    /// A handle without an orchestrator behind it: every call is refused.
    pub fn unbound(config: &SecurityConfig) -> Self {
        Self::new(ChildRef::unbound(), broadcast::channel(1).0, config)
    }

    /// The child behind the handle.
    pub const fn child(&self) -> &ChildRef<SecurityOrchestrator> {
        &self.child
    }

    async fn ask<M, T>(&self, message: M, within: Duration) -> Result<T, SecurityError>
    where
        SecurityOrchestrator: Handler<M> + Actor<Context = Context<SecurityOrchestrator>>,
        M: Message<Result = Result<T, SecurityError>> + Send + 'static,
        T: Send + 'static,
    {
        self.child.call(message, within).await?
    }

    /// Carries out what an admin asks for; returns once it is durable and has taken effect. Idempotent, and each try
    /// is in the audit log. The caller has checked the admin's key.
    ///
    /// # Errors
    /// [`SecurityError::Refused`]: a rule forbids it. [`SecurityError::NotEffective`]: decided, and still being tried.
    /// [`SecurityError::Audit`]: nothing was decided. [`SecurityError::Call`] with `Timeout` or `Lost`: perhaps
    /// decided; ask again.
    pub async fn decide(&self, order: Order) -> Result<Decided, SecurityError> {
        self.ask(Decide(order), self.decide_timeout).await
    }

    /// Tells the orchestrator something and does not wait.
    ///
    /// # Errors
    /// It is down or has all the messages it admits. What the tree itself took out it finds at its next tick all the
    /// same.
    pub fn report(&self, report: Report) -> Result<(), CallError> {
        self.child.try_tell(Tell(report))
    }

    /// Tells the orchestrator something and waits until what follows from it is durable and carried out.
    ///
    /// # Errors
    /// [`SecurityError::Audit`], [`SecurityError::Call`].
    pub async fn report_and_wait(&self, report: Report) -> Result<(), SecurityError> {
        self.ask(Tell(report), self.decide_timeout).await
    }

    /// How a component stands.
    ///
    /// # Errors
    /// [`SecurityError::Refused`] if neither the tree nor the audit log knows it.
    pub async fn status(&self, path: impl Into<String>) -> Result<ComponentStatus, SecurityError> {
        self.ask(GetStatus(path.into()), self.reply_timeout).await
    }

    /// Takes out what was quarantined and runs all the same, and returns when it is out. Called after components were
    /// started and before anybody is served, so that a quarantine holds from a process's first moment; a tick would do
    /// it later. Idempotent.
    ///
    /// # Errors
    /// [`SecurityError::NotEffective`] for the first component that could not be taken out; [`SecurityError::Audit`],
    /// [`SecurityError::Call`].
    pub async fn enforce(&self) -> Result<(), SecurityError> {
        self.ask(Enforce, self.decide_timeout).await
    }

    /// Paths of all components that are out of service by decision.
    ///
    /// # Errors
    /// [`SecurityError::Call`].
    pub async fn quarantined(&self) -> Result<Vec<String>, SecurityError> {
        self.ask(GetQuarantined, self.reply_timeout).await
    }

    /// The indicators of SEC-21.
    ///
    /// # Errors
    /// [`SecurityError::Call`].
    pub async fn threat_indicators(&self) -> Result<Vec<IndicatorState>, SecurityError> {
        self.ask(GetIndicators, self.reply_timeout).await
    }

    /// Everything at once.
    ///
    /// # Errors
    /// [`SecurityError::Call`].
    pub async fn dashboard(&self) -> Result<Dashboard, SecurityError> {
        self.ask(GetDashboard, self.reply_timeout).await
    }

    /// What happens from now on, through restarts of the orchestrator. A subscriber that falls more than 256 events
    /// behind loses the oldest and is told so.
    pub fn events(&self) -> broadcast::Receiver<SecurityEvent> {
        self.events.subscribe()
    }
}
