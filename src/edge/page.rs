//! The chat page and the tree page: files built into the binary, nothing from elsewhere.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};

use super::error::{self, ApiError};

const CHAT: &str = include_str!("assets/chat.html");
const TREE: &str = include_str!("assets/tree.html");

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// Name below `/assets/`, content type, content.
const ASSETS: [(&str, &str, &str); 11] = [
    ("base.css", STYLE, include_str!("assets/base.css")),
    ("chat.css", STYLE, include_str!("assets/chat.css")),
    ("chat.js", SCRIPT, include_str!("assets/chat.js")),
    ("icon.svg", "image/svg+xml", include_str!("assets/icon.svg")),
    ("sse.js", SCRIPT, include_str!("assets/sse.js")),
    ("tree.css", STYLE, include_str!("assets/tree.css")),
    ("tree.js", SCRIPT, include_str!("assets/tree.js")),
    (
        "tree_order.js",
        SCRIPT,
        include_str!("assets/tree_order.js"),
    ),
    (
        "tree_parts.js",
        SCRIPT,
        include_str!("assets/tree_parts.js"),
    ),
    ("tree_view.js", SCRIPT, include_str!("assets/tree_view.js")),
    (
        "tree_words.js",
        SCRIPT,
        include_str!("assets/tree_words.js"),
    ),
];

/// `GET /`
pub async fn chat() -> HttpResponse {
    answer(HTML, CHAT)
}

/// `GET /tree`
pub async fn tree() -> HttpResponse {
    answer(HTML, TREE)
}

/// `GET /assets/{name}`
pub async fn asset(
    request: HttpRequest,
    name: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    match ASSETS.iter().find(|(known, _, _)| *known == *name) {
        Some((_, content_type, body)) => Ok(answer(content_type, body)),
        None => error::not_found(request).await,
    }
}

fn answer(content_type: &'static str, body: &'static str) -> HttpResponse {
    HttpResponse::Ok()
        .content_type(content_type)
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .body(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What follows `before` in a text, up to the next quote.
    fn quoted<'a>(text: &'a str, before: &'a str) -> impl Iterator<Item = &'a str> {
        let parts = text.split(before).skip(1);
        parts.filter_map(|rest| rest.split('"').next())
    }

    fn is_served(name: &str) -> bool {
        ASSETS.iter().any(|(known, _, _)| *known == name)
    }

    #[test]
    fn every_file_that_a_page_asks_for_is_served() {
        for page in [CHAT, TREE] {
            let asked: Vec<_> = quoted(page, "\"/assets/").collect();
            assert!(asked.len() >= 4, "{asked:?}");
            for name in asked {
                assert!(is_served(name), "{name}");
            }
        }
        for (script, content_type, text) in ASSETS {
            for name in quoted(text, "from \"./").filter(|_| content_type == SCRIPT) {
                assert!(is_served(name), "{script} imports {name}");
            }
        }
    }

    #[test]
    fn pages_ask_for_nothing_that_the_policy_refuses() {
        for page in [CHAT, TREE] {
            assert_eq!(page.matches("<script").count(), 1, "none is inline");
            for refused in [
                "<style",
                " style=",
                " onclick=",
                "http:",
                "https:",
                "javascript:",
            ] {
                assert!(!page.contains(refused), "{refused}");
            }
        }
    }
}
