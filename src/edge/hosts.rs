//! Under which names the node may be asked, and by which pages: the defence against DNS rebinding and against other
//! origins in a browser.

use std::net::SocketAddr;

const LOOPBACK_NAMES: [&str; 3] = ["127.0.0.1", "localhost", "[::1]"];
const HTTP_PORT: u16 = 80;

/// The names that a Host header may hold and an Origin may come from.
#[derive(Clone, Debug)]
pub struct HostRules {
    allowed: Vec<String>,
}

impl HostRules {
    /// The loopback names and the listen address at the port in use, and what the operator names.
    pub fn new(bound: SocketAddr, configured: &[String]) -> Self {
        let own = (!bound.ip().is_unspecified()).then(|| match bound {
            SocketAddr::V4(v4) => v4.ip().to_string(),
            SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
        });
        let names = LOOPBACK_NAMES
            .iter()
            .map(|name| (*name).to_owned())
            .chain(own);
        let mut allowed: Vec<String> = names
            .flat_map(|name| spellings(&name, bound.port()))
            .collect();
        allowed.extend(configured.iter().map(|host| host.to_ascii_lowercase()));
        Self { allowed }
    }

    /// Whether a Host header, or the authority of an absolute request target, names this node.
    pub fn host_allowed(&self, host: &str) -> bool {
        self.allowed
            .iter()
            .any(|allowed| allowed.eq_ignore_ascii_case(host))
    }

    /// Whether an Origin header is a page of this node's own.
    pub fn origin_allowed(&self, origin: &str) -> bool {
        let host = origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://"));
        host.is_some_and(|host| self.host_allowed(host))
    }
}

/// A browser leaves the port out where it is the scheme's own.
fn spellings(name: &str, port: u16) -> Vec<String> {
    let with_port = format!("{name}:{port}");
    if port == HTTP_PORT {
        return vec![name.to_owned(), with_port];
    }
    vec![with_port]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> HostRules {
        HostRules::new(
            "127.0.0.1:8000".parse().unwrap(),
            &["chat.example.org".into()],
        )
    }

    #[test]
    fn hosts() {
        let table = [
            ("127.0.0.1:8000", true),
            ("localhost:8000", true),
            ("LOCALHOST:8000", true),
            ("[::1]:8000", true),
            ("chat.example.org", true),
            ("127.0.0.1", false),
            ("127.0.0.1:8001", false),
            ("localhost.:8000", false),
            ("evil.example:8000", false),
            ("evil.example", false),
            ("localhost:8000.evil.example", false),
            ("user@localhost:8000", false),
            ("chat.example.org:8000", false),
            ("sub.chat.example.org", false),
            ("0.0.0.0:8000", false),
            ("", false),
        ];
        for (host, allowed) in table {
            assert_eq!(rules().host_allowed(host), allowed, "{host:?}");
        }
    }

    #[test]
    fn origins() {
        let table = [
            ("http://127.0.0.1:8000", true),
            ("http://localhost:8000", true),
            ("http://[::1]:8000", true),
            ("https://chat.example.org", true),
            ("http://localhost:3000", false),
            ("http://localhost", false),
            ("https://evil.example", false),
            ("http://evil.example/http://localhost:8000", false),
            ("file://", false),
            ("null", false),
            ("localhost:8000", false),
            ("", false),
        ];
        for (origin, allowed) in table {
            assert_eq!(rules().origin_allowed(origin), allowed, "{origin:?}");
        }
    }

    #[test]
    fn at_port_80_the_port_may_be_left_out() {
        let rules = HostRules::new("192.0.2.7:80".parse().unwrap(), &[]);
        for host in ["localhost", "localhost:80", "192.0.2.7", "[::1]"] {
            assert!(rules.host_allowed(host), "{host}");
        }
    }

    #[test]
    fn an_unspecified_listen_address_allows_no_address() {
        let rules = HostRules::new("0.0.0.0:8000".parse().unwrap(), &[]);
        assert!(!rules.host_allowed("0.0.0.0:8000"));
        assert!(rules.host_allowed("127.0.0.1:8000"));
    }
}
