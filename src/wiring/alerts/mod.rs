//! Alerts on their way to people: the node's log at once, webhooks with retries, and a file for what reached nobody.

mod deliver;
mod letters;
mod secret;
mod target;

use std::sync::Arc;
use std::time::Duration;

use blyan_security::{Alert, AlertSink};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::{AlertsConfig, Config};
use crate::https::{self, NoCertificates};
use deliver::{Courier, Tries};
use letters::DeadLetters;
pub use secret::SecretError;
use target::Target;

/// Alerts that may wait for one webhook. They come a few an hour; more than these is an outage of the webhook.
const WAITING_MAX: usize = 64;

/// Why webhooks cannot be used as they are configured.
#[derive(Debug, thiserror::Error)]
pub enum AlertsError {
    /// A file with an address or a key.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// An address over which an alert must not travel.
    #[error("{0}: an address begins with https://, or with http:// and a loopback host")]
    Address(&'static str),
    /// The file of what reached nobody.
    #[error("{path} cannot be opened: {source}")]
    DeadLetters {
        /// The file.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// The certificates that the system trusts.
    #[error(transparent)]
    Certificates(#[from] NoCertificates),
}

/// The webhooks of a node, each with a task of its own.
pub struct Alerts {
    stopping: CancellationToken,
    couriers: Vec<JoinHandle<()>>,
}

/// Where the orchestrator puts alerts.
pub struct Inbox {
    targets: Vec<(Target, mpsc::Sender<Alert>)>,
    letters: Arc<DeadLetters>,
}

/// Begins to deliver on this thread's system. `node` names this node to whoever reads an alert.
///
/// # Errors
/// [`AlertsError`], each variant.
pub fn begin(config: &Config, node: &str) -> Result<(Alerts, Inbox), AlertsError> {
    let targets = targets(&config.alerts, node)?;
    let letters = Arc::new(DeadLetters::open(&config.node.data_dir())?);
    let tries = Tries {
        at_most: config.alerts.tries_max,
        first_pause: Duration::from_millis(config.alerts.retry_initial_ms),
    };
    let stopping = CancellationToken::new();
    let (mut couriers, mut senders) = (Vec::new(), Vec::new());
    for target in targets {
        let (sender, waiting) = mpsc::channel(WAITING_MAX);
        let timeout = Duration::from_millis(config.alerts.timeout_ms);
        let courier = Courier {
            client: https::client(timeout)?,
            target: target.clone(),
            tries,
            letters: Arc::clone(&letters),
            stopping: stopping.clone(),
        };
        couriers.push(actix_rt::spawn(courier.deliver_all(waiting)));
        senders.push((target, sender));
    }
    let inbox = Inbox {
        targets: senders,
        letters,
    };
    Ok((Alerts { stopping, couriers }, inbox))
}

fn targets(config: &AlertsConfig, node: &str) -> Result<Vec<Target>, AlertsError> {
    let mut targets = Vec::new();
    if let Some(path) = &config.slack_url_file {
        let url = secret::read("alerts.slack_url_file", path)?;
        targets.push(Target::slack(url, node)?);
    }
    if let Some(path) = &config.pagerduty_key_file {
        let key = secret::read("alerts.pagerduty_key_file", path)?;
        targets.push(Target::pagerduty(config.pagerduty_url.clone(), key, node)?);
    }
    Ok(targets)
}

impl Alerts {
    /// Ends the delivery; what was not delivered is in the dead letters when this returns.
    pub async fn close(self) {
        self.stopping.cancel();
        for courier in self.couriers {
            if let Err(why) = courier.await {
                tracing::error!(%why, "the delivery of alerts failed");
            }
        }
    }
}

impl AlertSink for Inbox {
    fn alert(&self, alert: &Alert) {
        tracing::error!(
            indicator = alert.indicator.as_str(),
            count = alert.count,
            subject = alert.subject,
            "alert: {}",
            alert.text
        );
        for (target, sender) in &self.targets {
            let why = match sender.try_send(alert.clone()) {
                Ok(()) => continue,
                Err(TrySendError::Full(_)) => "too many alerts wait for it",
                Err(TrySendError::Closed(_)) => "the node is stopping",
            };
            self.letters.keep(target.name(), alert, 0, why);
        }
    }
}
