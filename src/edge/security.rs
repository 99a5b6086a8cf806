//! What surrounds every handler: who may ask, which headers every answer carries, and a net for panics.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use actix_web::body::BoxBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::error::InternalError;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, HttpRequest};
use blyan_protocol::{ErrorCode, PublicError};
use futures_util::FutureExt;

use super::error::ApiError;
use super::hosts::HostRules;
use super::metrics;
use super::state::EdgeState;

const POLICY: &str =
    "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
/// The API page styles its elements inline and carries its pictures in its style sheet.
const DOCS_POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'";
const DOCS_PREFIX: &str = "/docs";
const HSTS: &str = "max-age=31536000; includeSubDomains";
/// Name of the fault point in front of every handler.
const REQUEST_POINT: &str = "edge_request";

/// Answers a request, or refuses it: the outermost layer.
pub async fn surround(
    state: Arc<EdgeState>,
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let began = Instant::now();
    let method = request.method().clone();
    let docs = request.path().starts_with(DOCS_PREFIX);
    let answer = match admit(&state.hosts, request.request()) {
        Ok(()) => caught(&state, request, next).await,
        Err(refusal) => Ok(refuse(request, refusal)),
    };
    let (route, status) = match &answer {
        Ok(reply) => (reply.request().match_pattern(), reply.status()),
        Err(error) => (None, error.as_response_error().status_code()),
    };
    let route = route.unwrap_or_else(|| "none".to_owned());
    metrics::answered(&route, method.as_str(), status.as_u16(), began.elapsed());
    with_headers(answer, |headers| {
        set_headers(headers, docs, state.config.hsts)
    })
}

fn refuse(request: ServiceRequest, refusal: PublicError) -> ServiceResponse<BoxBody> {
    let error = ApiError::for_path(request.path(), refusal);
    request.error_response(error)
}

/// A handler's panic becomes a 500; what it borrowed is dropped with it.
async fn caught(
    state: &EdgeState,
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let path = request.path().to_owned();
    let handled = AssertUnwindSafe(async {
        state.probe.hit(REQUEST_POINT);
        next.call(request).await
    });
    handled.catch_unwind().await.unwrap_or_else(|_| {
        metrics::panicked();
        tracing::error!(path, "a request handler panicked");
        Err(ApiError::for_path(&path, internal()).into())
    })
}

/// What a client hears of a panic.
pub fn internal() -> PublicError {
    PublicError::new(
        ErrorCode::Internal,
        "The node failed on this request.",
        "Try again; if it happens again, the node's log says why.",
    )
}

fn admit(hosts: &HostRules, request: &HttpRequest) -> Result<(), PublicError> {
    check_host(hosts, request)?;
    check_origin(hosts, request)?;
    check_fetch_site(request)
}

fn check_host(hosts: &HostRules, request: &HttpRequest) -> Result<(), PublicError> {
    let mut sent = request.headers().get_all(header::HOST);
    let host = match (sent.next(), sent.next()) {
        (Some(host), None) => host.to_str().unwrap_or_default(),
        _ => {
            return Err(super::error::invalid(
                "A request has exactly one Host header.",
            ));
        }
    };
    let target = request
        .uri()
        .authority()
        .map(|authority| authority.as_str());
    if hosts.host_allowed(host) && target.is_none_or(|target| hosts.host_allowed(target)) {
        return Ok(());
    }
    Err(PublicError::new(
        ErrorCode::Forbidden,
        "This node is not known under the Host of the request.",
        "Use http://127.0.0.1 and the node's port, or add the name to edge.allowed_hosts.",
    ))
}

/// A missing Origin passes: it is no browser, or a page of the node's own.
fn check_origin(hosts: &HostRules, request: &HttpRequest) -> Result<(), PublicError> {
    let mut sent = request.headers().get_all(header::ORIGIN);
    if sent.all(|origin| {
        origin
            .to_str()
            .is_ok_and(|origin| hosts.origin_allowed(origin))
    }) {
        return Ok(());
    }
    Err(foreign_page())
}

/// Stops what a browser sends without an Origin, such as an image whose address starts a stream.
fn check_fetch_site(request: &HttpRequest) -> Result<(), PublicError> {
    let chats = ["/chat", "/ws", "/v1"]
        .iter()
        .any(|prefix| request.path().starts_with(prefix));
    let site = request
        .headers()
        .get("sec-fetch-site")
        .map(HeaderValue::as_bytes);
    match site {
        Some(b"cross-site" | b"same-site") if chats => Err(foreign_page()),
        _ => Ok(()),
    }
}

fn foreign_page() -> PublicError {
    PublicError::new(
        ErrorCode::Forbidden,
        "A page of another origin may not ask this node.",
        "Open the node's own page, or add its host to edge.allowed_hosts.",
    )
}

fn set_headers(headers: &mut HeaderMap, docs: bool, hsts: bool) {
    let policy = if docs { DOCS_POLICY } else { POLICY };
    let mut set = |name: HeaderName, value: &'static str| {
        headers.insert(name, HeaderValue::from_static(value));
    };
    set(header::CONTENT_SECURITY_POLICY, policy);
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::X_FRAME_OPTIONS, "DENY");
    set(header::X_XSS_PROTECTION, "1; mode=block");
    set(header::REFERRER_POLICY, "no-referrer");
    set(
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    );
    set(HeaderName::from_static("x-api-version"), "v2.0");
    if hsts {
        set(header::STRICT_TRANSPORT_SECURITY, HSTS);
    }
}

fn with_headers(
    answer: Result<ServiceResponse<BoxBody>, Error>,
    set: impl Fn(&mut HeaderMap),
) -> Result<ServiceResponse<BoxBody>, Error> {
    match answer {
        Ok(mut reply) => {
            set(reply.headers_mut());
            Ok(reply)
        }
        Err(error) => {
            let mut reply = error.error_response();
            set(reply.headers_mut());
            Err(InternalError::from_response(error, reply).into())
        }
    }
}
