//! The bounds of a request that are known before it is tokenised.

use blyan_formats::bodies::ExpertShape;
use blyan_protocol::{ChatRequest, ErrorCode, PublicError, Sampling};

/// Stop texts of one request.
pub const STOPS_MAX: usize = 4;
/// Bytes of one stop text.
pub const STOP_BYTES_MAX: usize = 64;

/// Checks everything but the length in tokens.
///
/// # Errors
/// `invalid_request`, `invalid_top_k` or `payload_too_large`, with what is wrong and what to do.
pub fn validate(
    request: &ChatRequest,
    experts: &ExpertShape,
    input_bytes_max: usize,
) -> Result<(), PublicError> {
    messages(request, input_bytes_max)?;
    require(
        request.max_tokens >= 1,
        "max_tokens is 0.",
        "Ask for at least one token.",
    )?;
    sampling(&request.sampling)?;
    stops(&request.stop)?;
    top_k_experts(request.top_k_experts, experts)
}

fn messages(request: &ChatRequest, input_bytes_max: usize) -> Result<(), PublicError> {
    require(
        !request.messages.is_empty(),
        "There are no messages.",
        "Send at least one.",
    )?;
    let bytes: usize = request
        .messages
        .iter()
        .map(|message| message.content.len())
        .sum();
    if bytes <= input_bytes_max {
        return Ok(());
    }
    let sentence = format!("The messages have {bytes} bytes, at most {input_bytes_max} are taken.");
    Err(PublicError::new(
        ErrorCode::PayloadTooLarge,
        sentence,
        "Send shorter messages.",
    ))
}

fn sampling(sampling: &Sampling) -> Result<(), PublicError> {
    let warm = (0.0..=2.0).contains(&sampling.temperature);
    require(warm, "temperature is out of range.", "Use 0 (greedy) to 2.")?;
    let nucleus = sampling.top_p > 0.0 && sampling.top_p <= 1.0;
    require(
        nucleus,
        "top_p is out of range.",
        "Use more than 0 and at most 1.",
    )?;
    require(
        sampling.top_k != Some(0),
        "top_k is 0.",
        "Use at least 1, or leave it out.",
    )
}

fn stops(stops: &[String]) -> Result<(), PublicError> {
    require(
        stops.len() <= STOPS_MAX,
        "There are too many stop texts.",
        "Send at most 4.",
    )?;
    let fits = |stop: &String| (1..=STOP_BYTES_MAX).contains(&stop.len());
    require(
        stops.iter().all(fits),
        "A stop text has a bad length.",
        "Use 1 to 64 bytes.",
    )
}

fn top_k_experts(top_k: Option<u32>, experts: &ExpertShape) -> Result<(), PublicError> {
    let range = u32::from(experts.always_on)..=u32::from(experts.per_layer);
    if top_k.is_none_or(|k| range.contains(&k)) {
        return Ok(());
    }
    let (least, most) = (range.start(), range.end());
    let sentence =
        format!("top_k_experts must be {least} to {most}; {least} experts are always on.");
    Err(PublicError::new(
        ErrorCode::InvalidTopK,
        sentence,
        "Leave it out to use all experts.",
    ))
}

fn require(holds: bool, sentence: &str, hint: &str) -> Result<(), PublicError> {
    if holds {
        Ok(())
    } else {
        Err(PublicError::new(ErrorCode::InvalidRequest, sentence, hint))
    }
}

#[cfg(test)]
mod tests {
    use blyan_formats::bodies::Routing;
    use blyan_protocol::{Message, RequestId, Role};

    use super::*;

    fn request() -> ChatRequest {
        ChatRequest {
            id: RequestId::from_random([0; 16]),
            messages: vec![Message {
                role: Role::User,
                content: "hi".into(),
            }],
            max_tokens: 1,
            sampling: Sampling {
                temperature: 0.0,
                top_p: 1.0,
                top_k: None,
                seed: 0,
            },
            stop: Vec::new(),
            top_k_experts: None,
        }
    }

    fn check(change: impl FnOnce(&mut ChatRequest)) -> Option<ErrorCode> {
        let routing = Routing::TopScoresUnitWeight;
        let experts = ExpertShape {
            per_layer: 16,
            always_on: 4,
            neurons: 96,
            routing,
        };
        let mut request = request();
        change(&mut request);
        validate(&request, &experts, 100)
            .err()
            .map(|error| error.code)
    }

    #[test]
    fn every_bound_is_checked_on_both_sides() {
        use ErrorCode::{InvalidRequest, InvalidTopK, PayloadTooLarge};
        assert_eq!(check(|_| {}), None);
        assert_eq!(check(|r| r.messages.clear()), Some(InvalidRequest));
        assert_eq!(check(|r| r.messages[0].content = "x".repeat(100)), None);
        assert_eq!(
            check(|r| r.messages[0].content = "x".repeat(101)),
            Some(PayloadTooLarge)
        );
        assert_eq!(check(|r| r.max_tokens = 0), Some(InvalidRequest));
        assert_eq!(check(|r| r.sampling.temperature = 2.0), None);
        for temperature in [-0.1, 2.1, f32::NAN, f32::INFINITY] {
            assert_eq!(
                check(|r| r.sampling.temperature = temperature),
                Some(InvalidRequest)
            );
        }
        for top_p in [0.0, -1.0, 1.1, f32::NAN] {
            assert_eq!(check(|r| r.sampling.top_p = top_p), Some(InvalidRequest));
        }
        assert_eq!(check(|r| r.sampling.top_k = Some(0)), Some(InvalidRequest));
        assert_eq!(check(|r| r.stop = vec!["s".repeat(64); 4]), None);
        assert_eq!(
            check(|r| r.stop = vec!["s".into(); 5]),
            Some(InvalidRequest)
        );
        assert_eq!(
            check(|r| r.stop = vec!["s".repeat(65)]),
            Some(InvalidRequest)
        );
        assert_eq!(
            check(|r| r.stop = vec![String::new()]),
            Some(InvalidRequest)
        );
        assert_eq!(check(|r| r.top_k_experts = Some(4)), None);
        assert_eq!(check(|r| r.top_k_experts = Some(16)), None);
        assert_eq!(check(|r| r.top_k_experts = Some(3)), Some(InvalidTopK));
        assert_eq!(check(|r| r.top_k_experts = Some(17)), Some(InvalidTopK));
    }
}
