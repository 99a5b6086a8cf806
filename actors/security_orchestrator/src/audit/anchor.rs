use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::RecordHash;

/// That the log held `count` records, the last of which had the hash `head`. Written `COUNT:HEAD`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Anchor {
    /// Records, which is also the number of the last one.
    pub count: u64,
    /// The last one's hash; [`RecordHash::NONE`] for an empty log.
    pub head: RecordHash,
}

/// A text that is no anchor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an anchor is COUNT:HEAD, a number and 64 lower-case hexadecimal digits")]
pub struct AnchorParseError;

impl fmt::Display for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.count, self.head)
    }
}

impl FromStr for Anchor {
    type Err = AnchorParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (count, head) = text.split_once(':').ok_or(AnchorParseError)?;
        Ok(Self {
            count: count.parse().map_err(|_| AnchorParseError)?,
            head: head.parse().map_err(|_| AnchorParseError)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_text_round_trips() {
        let text = format!("12:{}", "ab".repeat(32));
        assert_eq!(text.parse::<Anchor>().unwrap().to_string(), text);
        for broken in ["", "12", ":", "x:ab", &text[1..20]] {
            assert_eq!(broken.parse::<Anchor>(), Err(AnchorParseError), "{broken}");
        }
    }
}
