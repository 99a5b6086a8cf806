//! Getting an alert across.

use std::sync::Arc;
use std::time::Duration;

use awc::Client;
use awc::http::header::RETRY_AFTER;
use awc::http::{StatusCode, header::HeaderMap};
use blyan_security::Alert;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::letters::DeadLetters;
use super::target::Target;

/// The longest pause between two tries, also where a webhook asks for more.
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// How often, and how soon again.
#[derive(Clone, Copy, Debug)]
pub struct Tries {
    /// Tries of one alert.
    pub at_most: u32,
    /// Before the second; each further pause is twice as long.
    pub first_pause: Duration,
}

impl Tries {
    /// The pause after try number `tried`, from 1, unless the webhook asks for a longer one.
    fn pause(self, tried: u32, asked: Option<Duration>) -> Duration {
        let doubled = 1_u32.checked_shl(tried - 1).unwrap_or(u32::MAX);
        let pause = self.first_pause.saturating_mul(doubled);
        pause.max(asked.unwrap_or_default()).min(PAUSE_MAX)
    }
}

/// Why a try failed.
#[derive(Debug, PartialEq, Eq)]
struct Failure {
    why: String,
    /// Another try may do better.
    passing: bool,
    /// What the webhook asks for.
    pause: Option<Duration>,
}

impl Failure {
    fn answered(status: StatusCode, headers: &HeaderMap) -> Self {
        let seconds = headers
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok());
        Self {
            why: format!("it answers {}", status.as_u16()),
            passing: status.is_server_error()
                || matches!(
                    status,
                    StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
                ),
            pause: seconds
                .and_then(|text| text.parse().ok())
                .map(Duration::from_secs),
        }
    }
}

/// Brings alerts to one webhook, in their order.
pub struct Courier {
    pub client: Client,
    pub target: Target,
    pub tries: Tries,
    pub letters: Arc<DeadLetters>,
    pub stopping: CancellationToken,
}

impl Courier {
    /// Until nobody sends alerts any more, or the node stops: then what is left becomes dead letters.
    pub async fn deliver_all(self, mut waiting: mpsc::Receiver<Alert>) {
        while let Some(Some(alert)) = self.stopping.run_until_cancelled(waiting.recv()).await {
            self.deliver(&alert).await;
        }
        waiting.close();
        while let Ok(alert) = waiting.try_recv() {
            self.give_up(&alert, 0, "the node is stopping");
        }
    }

    async fn deliver(&self, alert: &Alert) {
        let mut tried = 0;
        loop {
            tried += 1;
            let Some(result) = self.stopping.run_until_cancelled(self.post(alert)).await else {
                return self.give_up(alert, tried, "the node is stopping");
            };
            let Err(failure) = result else {
                return tracing::info!(to = self.target.name(), tried, "an alert is delivered");
            };
            if !failure.passing || tried >= self.tries.at_most {
                return self.give_up(alert, tried, &failure.why);
            }
            let pause = tokio::time::sleep(self.tries.pause(tried, failure.pause));
            if self.stopping.run_until_cancelled(pause).await.is_none() {
                return self.give_up(alert, tried, &failure.why);
            }
        }
    }

    fn give_up(&self, alert: &Alert, tried: u32, why: &str) {
        self.letters.keep(self.target.name(), alert, tried, why);
    }

    async fn post(&self, alert: &Alert) -> Result<(), Failure> {
        let request = self.client.post(self.target.url());
        let reply = request.send_json(&self.target.body(alert)).await;
        let reply = reply.map_err(|error| Failure {
            why: error.to_string(),
            passing: true,
            pause: None,
        })?;
        if reply.status().is_success() {
            return Ok(());
        }
        Err(Failure::answered(reply.status(), reply.headers()))
    }
}

#[cfg(test)]
mod tests {
    use awc::http::header::HeaderValue;

    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_a_webhook_may_ask_for_more() {
        let tries = Tries {
            at_most: 8,
            first_pause: Duration::from_secs(1),
        };
        let seconds = |tried, asked: Option<u64>| {
            let asked = asked.map(Duration::from_secs);
            tries.pause(tried, asked).as_secs()
        };
        assert_eq!(seconds(1, None), 1);
        assert_eq!(seconds(4, None), 8);
        assert_eq!(seconds(40, None), 300);
        assert_eq!(seconds(1, Some(30)), 30);
        assert_eq!(seconds(4, Some(2)), 8);
        assert_eq!(seconds(1, Some(1 << 40)), 300);
    }

    #[test]
    fn what_no_further_try_mends_is_not_tried_again() {
        let failure = |status: u16, headers: &HeaderMap| {
            Failure::answered(StatusCode::from_u16(status).unwrap(), headers)
        };
        let mut headers = HeaderMap::new();
        for (status, passing) in [
            (500, true),
            (503, true),
            (429, true),
            (408, true),
            (404, false),
            (302, false),
        ] {
            assert_eq!(failure(status, &headers).passing, passing, "{status}");
        }
        headers.insert(RETRY_AFTER, HeaderValue::from_static("7"));
        assert_eq!(failure(429, &headers).pause, Some(Duration::from_secs(7)));
        headers.insert(RETRY_AFTER, HeaderValue::from_static("soon"));
        assert_eq!(failure(429, &headers).pause, None);
    }
}
