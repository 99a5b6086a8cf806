//! Judges one stream of events: pure, fed event by event.

use serde_json::Value;

/// What a finished stream showed.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Stream {
    pub tokens: u64,
    pub ended: bool,
    pub cancelled: bool,
    /// The code of the error event that ended it.
    pub error: Option<String>,
    /// Broken promises, in words.
    pub faults: Vec<String>,
    started: bool,
    cost: u128,
}

impl Stream {
    /// Takes the next event; `kind` is its name or `type`.
    pub fn event(&mut self, kind: &str, data: &Value) {
        if self.ended {
            self.faults.push(format!("{kind} after the end"));
            return;
        }
        match kind {
            "stream_start" => self.start(),
            "token" => self.token(data),
            "stream_end" => self.end(data),
            "error" => self.fail(data),
            other => self.faults.push(format!("unknown event {other}")),
        }
    }

    /// The connection ended.
    pub fn closed(&mut self) {
        if !self.ended {
            self.faults.push("closed without an end".into());
        }
    }

    fn start(&mut self) {
        if self.started {
            self.faults.push("a second stream_start".into());
        }
        self.started = true;
    }

    fn token(&mut self, data: &Value) {
        if !self.started {
            self.faults.push("a token before stream_start".into());
        }
        match data["index"].as_u64() {
            Some(index) if index == self.tokens => {}
            Some(index) => self
                .faults
                .push(format!("token {index} where {} was due", self.tokens)),
            None => self.faults.push("a token without an index".into()),
        }
        self.tokens += 1;
        self.cost_grows(&data["cumulative_cost"]);
    }

    fn end(&mut self, data: &Value) {
        self.ended = true;
        self.cancelled = data["finish_reason"] == "cancelled";
        let counted = data["usage"]["completion_tokens"].as_u64();
        // A cancel may overtake tokens that were already made.
        if !self.cancelled && counted != Some(self.tokens) {
            self.faults.push(format!(
                "{} tokens came, the end counts {counted:?}",
                self.tokens
            ));
        }
        self.cost_grows(&data["total_cost"]);
    }

    fn fail(&mut self, data: &Value) {
        self.ended = true;
        let code = data["error"]["code"].as_str();
        if code.is_none() {
            self.faults.push("an error without a code".into());
        }
        self.error = Some(code.unwrap_or("none").to_owned());
    }

    fn cost_grows(&mut self, cost: &Value) {
        match cost.as_str().and_then(|text| text.parse().ok()) {
            Some(cost) if cost >= self.cost => self.cost = cost,
            Some(_) => self.faults.push("the cost fell".into()),
            None => self.faults.push("a cost that is no whole number".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn token(index: u64, cost: &str) -> Value {
        json!({"index": index, "token": "a", "cumulative_cost": cost})
    }

    fn judged(events: &[(&str, Value)]) -> Stream {
        let mut stream = Stream::default();
        for (kind, data) in events {
            stream.event(kind, data);
        }
        stream.closed();
        stream
    }

    #[test]
    fn a_whole_stream_has_no_fault() {
        let end =
            json!({"finish_reason": "stop", "usage": {"completion_tokens": 2}, "total_cost": "9"});
        let stream = judged(&[
            ("stream_start", json!({})),
            ("token", token(0, "3")),
            ("token", token(1, "6")),
            ("stream_end", end),
        ]);
        assert_eq!(stream.faults, Vec::<String>::new());
        assert_eq!(stream.tokens, 2);
    }

    #[test]
    fn gaps_doubles_and_missing_ends_are_faults() {
        let start = ("stream_start", json!({}));
        let gap = judged(&[start.clone(), ("token", token(1, "1"))]);
        assert_eq!(
            gap.faults,
            ["token 1 where 0 was due", "closed without an end"]
        );
        let double = judged(&[
            start.clone(),
            ("token", token(0, "1")),
            ("token", token(0, "1")),
        ]);
        assert!(double.faults[0].contains("token 0 where 1 was due"));
        let cheaper = judged(&[start, ("token", token(0, "2")), ("token", token(1, "1"))]);
        assert!(cheaper.faults.contains(&"the cost fell".to_owned()));
    }

    #[test]
    fn a_wrong_count_is_a_fault_and_an_error_is_not() {
        let end =
            json!({"finish_reason": "stop", "usage": {"completion_tokens": 5}, "total_cost": "1"});
        let short = judged(&[("stream_start", json!({})), ("stream_end", end)]);
        assert_eq!(short.faults.len(), 1);
        let failed = judged(&[
            ("stream_start", json!({})),
            ("error", json!({"error": {"code": "unavailable"}})),
        ]);
        assert!(failed.faults.is_empty());
        assert_eq!(failed.error.as_deref(), Some("unavailable"));
    }
}
