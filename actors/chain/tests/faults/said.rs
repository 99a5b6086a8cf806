//! What a child says of its work, a line each.

use std::fmt;
use std::str::FromStr;

use blyan_formats::BlockHash;

/// Something that may be lost.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fact {
    Block(BlockHash),
    Receipt(u64),
    Snapshot(String),
    /// So many bytes of the upload of this block.
    Upload(BlockHash, u64),
}

/// What a script says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// It is acknowledged, or a reader sees it.
    Holds(Fact),
    /// A snapshot is being made: it holds what was said before.
    Snapshotting,
    /// The upload of this block is gone, and its client was told.
    Dropped(BlockHash),
    /// From now on what came after this snapshot may be gone, but for uploads.
    Restoring(String),
    /// The script met an error, and has looked at what a reader sees.
    Refused(String),
    /// It is through.
    Done,
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Holds(Fact::Block(hash)) => write!(f, "said block {hash}"),
            Self::Holds(Fact::Receipt(number)) => write!(f, "said receipt {number}"),
            Self::Holds(Fact::Snapshot(id)) => write!(f, "said snapshot {id}"),
            Self::Holds(Fact::Upload(block, bytes)) => write!(f, "said upload {block} {bytes}"),
            Self::Dropped(block) => write!(f, "said dropped {block}"),
            Self::Snapshotting => f.write_str("said snapshotting"),
            Self::Restoring(id) => write!(f, "said restoring {id}"),
            Self::Refused(why) => write!(f, "said refused {why}"),
            Self::Done => f.write_str("said done"),
        }
    }
}

impl FromStr for Said {
    type Err = ();

    fn from_str(line: &str) -> Result<Self, ()> {
        let (_, said) = line.split_once("said ").ok_or(())?;
        let (what, of) = said.split_once(' ').unwrap_or((said, ""));
        Ok(match what {
            "upload" => {
                let (block, bytes) = of.split_once(' ').ok_or(())?;
                let block = block.parse().map_err(|_| ())?;
                Self::Holds(Fact::Upload(block, bytes.parse().map_err(|_| ())?))
            }
            "dropped" => Self::Dropped(of.parse().map_err(|_| ())?),
            "block" => Self::Holds(Fact::Block(of.parse().map_err(|_| ())?)),
            "receipt" => Self::Holds(Fact::Receipt(of.parse().map_err(|_| ())?)),
            "snapshot" => Self::Holds(Fact::Snapshot(of.to_owned())),
            "snapshotting" => Self::Snapshotting,
            "restoring" => Self::Restoring(of.to_owned()),
            "refused" => Self::Refused(of.to_owned()),
            "done" => Self::Done,
            _ => return Err(()),
        })
    }
}
