//! Where alerts go, and in which words.

use std::net::IpAddr;

use awc::http::Uri;
use blyan_security::{Alert, Indicator};
use serde_json::{Value, json};

use super::AlertsError;

/// Characters of PagerDuty's `summary`, at most.
const SUMMARY_LEN_MAX: usize = 1024;

/// One webhook. The address of Slack's is a secret, as is PagerDuty's key: neither is ever shown.
#[derive(Clone)]
pub struct Target {
    kind: Kind,
    url: Uri,
    node: String,
}

#[derive(Clone)]
enum Kind {
    Slack,
    PagerDuty { routing_key: String },
}

impl Target {
    /// An incoming webhook of Slack.
    pub fn slack(url: String, node: &str) -> Result<Self, AlertsError> {
        Self::new(Kind::Slack, "alerts.slack_url_file", &url, node)
    }

    /// PagerDuty's Events API v2.
    pub fn pagerduty(url: String, routing_key: String, node: &str) -> Result<Self, AlertsError> {
        let kind = Kind::PagerDuty { routing_key };
        Self::new(kind, "alerts.pagerduty_url", &url, node)
    }

    fn new(kind: Kind, key: &'static str, url: &str, node: &str) -> Result<Self, AlertsError> {
        let url: Uri = url.parse().map_err(|_| AlertsError::Address(key))?;
        if !is_private(&url) {
            return Err(AlertsError::Address(key));
        }
        let node = node.to_owned();
        Ok(Self { kind, url, node })
    }

    /// For logs and dead letters.
    pub const fn name(&self) -> &'static str {
        match self.kind {
            Kind::Slack => "slack",
            Kind::PagerDuty { .. } => "pagerduty",
        }
    }

    /// Where the body is posted.
    pub const fn url(&self) -> &Uri {
        &self.url
    }

    /// What is posted.
    pub fn body(&self, alert: &Alert) -> Value {
        match &self.kind {
            Kind::Slack => slack_body(&self.node, alert),
            Kind::PagerDuty { routing_key } => pagerduty_body(&self.node, routing_key, alert),
        }
    }
}

/// Nobody on the way can read what goes there.
fn is_private(url: &Uri) -> bool {
    let host = url.host().unwrap_or_default();
    match url.scheme_str() {
        Some("https") => !host.is_empty(),
        Some("http") => {
            let literal = host.trim_matches(['[', ']']);
            literal.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
        }
        _ => false,
    }
}

fn slack_body(node: &str, alert: &Alert) -> Value {
    let text = format!(
        "*Blyan alert* `{}`: {} event(s), the last from `{}`\n{}\nnode `{node}`",
        alert.indicator.as_str(),
        alert.count,
        slack_text(&alert.subject),
        slack_text(&alert.text),
    );
    json!({ "text": text })
}

/// Slack's three control characters, so that what an attacker sent mentions nobody and links nowhere.
fn slack_text(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('`', "'")
}

fn pagerduty_body(node: &str, routing_key: &str, alert: &Alert) -> Value {
    let indicator = alert.indicator.as_str();
    let summary = format!(
        "{indicator}: {} event(s), the last from {}: {}",
        alert.count, alert.subject, alert.text
    );
    json!({
        "routing_key": routing_key,
        "event_action": "trigger",
        // Further alerts of a kind join the incident that is open.
        "dedup_key": format!("blyan/{node}/{indicator}"),
        "payload": {
            "summary": summary.chars().take(SUMMARY_LEN_MAX).collect::<String>(),
            "source": node,
            "severity": severity(alert.indicator),
            "component": alert.subject,
            "class": indicator,
            "custom_details": alert,
        },
    })
}

/// One of PagerDuty's four words.
const fn severity(indicator: Indicator) -> &'static str {
    match indicator {
        Indicator::GenesisIntegrityFailures | Indicator::ExpertTamperingDetected => "critical",
        Indicator::NodeQuarantineEvents => "error",
        Indicator::FailedAuthAttempts | Indicator::UnusualUploadPatterns => "warning",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert() -> Alert {
        Alert {
            at_ms: 17,
            indicator: Indicator::FailedAuthAttempts,
            count: 10,
            subject: "127.0.0.1".to_owned(),
            text: "POST /security/<!channel> & `more`".to_owned(),
        }
    }

    fn allowed(url: &str) -> bool {
        Target::slack(url.to_owned(), "n").is_ok()
    }

    #[test]
    fn an_address_is_private() {
        assert!(allowed("https://hooks.example.org/services/T0/B0/X"));
        assert!(allowed("http://127.0.0.1:8080/x") && allowed("http://[::1]/x"));
        for url in [
            "http://example.org/x",
            "http://127.0.0.1.example.org/",
            "ftp://127.0.0.1/",
            "/x",
            "",
            "https://",
        ] {
            assert!(!allowed(url), "{url}");
        }
    }

    #[test]
    fn a_secret_address_is_not_in_the_error() {
        let Err(error) = Target::slack("http://example.org/T0/secret".to_owned(), "n") else {
            panic!("an address that others can read on the way");
        };
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn slack_is_told_in_one_text_that_mentions_nobody() {
        let target = Target::slack("https://h.example.org/x".to_owned(), "02ab").unwrap();
        assert_eq!(
            target.body(&alert()),
            json!({ "text": "*Blyan alert* `failed_auth_attempts`: 10 event(s), the last from `127.0.0.1`\n\
                POST /security/&lt;!channel&gt; &amp; 'more'\nnode `02ab`" })
        );
    }

    #[test]
    fn pagerduty_is_told_with_its_key_and_one_incident_for_each_indicator() {
        let url = "https://events.example.org/v2/enqueue".to_owned();
        let target = Target::pagerduty(url, "R0".to_owned(), "02ab").unwrap();
        let body = target.body(&alert());
        assert_eq!(body["routing_key"], "R0");
        assert_eq!(body["event_action"], "trigger");
        assert_eq!(body["dedup_key"], "blyan/02ab/failed_auth_attempts");
        assert_eq!(body["payload"]["severity"], "warning");
        assert_eq!(body["payload"]["source"], "02ab");
        assert_eq!(body["payload"]["custom_details"]["at_ms"], 17);
        let long = Alert {
            text: "x".repeat(5000),
            ..alert()
        };
        let body = target.body(&long);
        let summary = body["payload"]["summary"].as_str().unwrap();
        assert_eq!(summary.len(), SUMMARY_LEN_MAX);
    }
}
