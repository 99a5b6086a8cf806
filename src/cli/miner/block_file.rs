//! The signed block of an upload, kept beside its payload: who begins again sends the same block, and the node goes on
//! where it stopped.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use blyan_chain::compose::{Weights, weights_block_at};
use blyan_formats::block::SIGNED_BLOCK_LEN_MAX;
use blyan_formats::{BlockHash, NetworkId, NodeKey, SignedBlock, from_canonical, to_canonical};

use super::payload::PayloadFile;

/// What a new version of an expert stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ground {
    /// The network.
    pub network: NetworkId,
    /// The architecture block.
    pub architecture: BlockHash,
    /// The version that is improved, and its height.
    pub parent: (BlockHash, u64),
}

impl Ground {
    /// Signs a block for a payload. It deprecates nothing: that is not for a granted key to say.
    pub fn sign(&self, payload: &PayloadFile, key: &NodeKey, timestamp_ms: u64) -> SignedBlock {
        let (parent, height) = self.parent;
        let weights = Weights {
            name: payload.name,
            payload: payload.hash,
            payload_len: payload.len,
            meta_ref: self.architecture,
            parents: vec![parent],
            supersedes: Vec::new(),
        };
        weights_block_at(self.network, height + 1, weights, timestamp_ms, key)
    }

    /// Whether `block` is what [`Ground::sign`] would make, but for its time.
    fn is_of(&self, block: &SignedBlock, payload: &PayloadFile, key: &NodeKey) -> bool {
        *block == self.sign(payload, key, block.header.timestamp_ms)
    }
}

/// The block of an earlier attempt, if it says the same; else a new one, which is then kept.
///
/// # Errors
/// The file cannot be read or written.
pub fn kept_or_new(
    payload_path: &Path,
    payload: &PayloadFile,
    ground: &Ground,
    key: &NodeKey,
    now_ms: u64,
) -> Result<SignedBlock> {
    let path = path_beside(payload_path);
    let in_file = || path.display().to_string();
    if let Some(kept) = read(&path).with_context(in_file)?
        && ground.is_of(&kept, payload, key)
    {
        return Ok(kept);
    }
    let block = ground.sign(payload, key, now_ms);
    write(&path, &block).with_context(in_file)?;
    Ok(block)
}

/// `layer3.expert5.block.json` beside `layer3.expert5.tblk`.
fn path_beside(payload: &Path) -> PathBuf {
    payload.with_extension("block.json")
}

/// None where there is no file, and for one that holds no block: it is made again.
fn read(path: &Path) -> io::Result<Option<SignedBlock>> {
    let line = match fs::read(path) {
        Ok(line) => line,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(why) => return Err(why),
    };
    let whole = line
        .strip_suffix(b"\n")
        .filter(|l| l.len() <= SIGNED_BLOCK_LEN_MAX);
    Ok(whole.and_then(|line| from_canonical(line).ok()))
}

fn write(path: &Path, block: &SignedBlock) -> Result<()> {
    let mut line = to_canonical(block)?;
    line.push(b'\n');
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    let mut staged = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
    staged.write_all(&line)?;
    staged.as_file().sync_all()?;
    staged.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use blyan_formats::tensorblock::{TensorBuf, write_tensorblock};
    use blyan_formats::{BlockType, TensorName};

    use super::*;

    struct World {
        folder: tempfile::TempDir,
        key: NodeKey,
        ground: Ground,
    }

    impl World {
        fn new() -> Self {
            Self {
                folder: tempfile::tempdir().unwrap(),
                key: NodeKey::from_secret_bytes([5; 32]).unwrap(),
                ground: Ground {
                    network: NetworkId::of_genesis(BlockHash::from_bytes([1; 32])),
                    architecture: BlockHash::from_bytes([2; 32]),
                    parent: (BlockHash::from_bytes([3; 32]), 4),
                },
            }
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("layer3.expert5.tblk")
        }

        fn payload(&self, value: f32) -> PayloadFile {
            let expert = TensorBuf::quantise_int8_blocks(96, 32, &[value; 96 * 32]).unwrap();
            let mut bytes = Vec::new();
            write_tensorblock(&expert.as_tensor(), &mut bytes).unwrap();
            fs::write(self.path(), bytes).unwrap();
            PayloadFile::open(TensorName::expert_of(3, 5), &self.path()).unwrap()
        }

        fn block(&self, payload: &PayloadFile, ground: &Ground, now_ms: u64) -> SignedBlock {
            kept_or_new(&self.path(), payload, ground, &self.key, now_ms).unwrap()
        }
    }

    #[test]
    fn a_block_says_what_it_stands_on_and_is_sound() {
        let world = World::new();
        let payload = world.payload(1.0);
        let block = world.block(&payload, &world.ground, 7);
        let header = &block.header;
        assert_eq!(header.block_type, BlockType::Expert);
        assert_eq!((header.index, header.timestamp_ms), (5, 7));
        assert_eq!(header.depends_on, Some(vec![world.ground.parent.0]));
        assert_eq!(header.supersedes, None);
        assert_eq!(header.meta_ref, Some(world.ground.architecture));
        assert_eq!(
            (header.payload_hash, header.payload_len),
            (payload.hash, payload.len)
        );
        block.verify().unwrap();
    }

    #[test]
    fn the_same_upload_has_the_same_block_at_any_time() {
        let world = World::new();
        let payload = world.payload(1.0);
        let first = world.block(&payload, &world.ground, 1000);
        assert_eq!(world.block(&payload, &world.ground, 2000), first);
        assert!(
            world
                .folder
                .path()
                .join("layer3.expert5.block.json")
                .is_file()
        );
    }

    #[test]
    fn another_payload_parent_or_key_is_another_block() {
        let mut world = World::new();
        let payload = world.payload(1.0);
        let mut known = vec![world.block(&payload, &world.ground, 1000)];
        let changed = world.payload(2.0);
        known.push(world.block(&changed, &world.ground, 2000));
        let other_parent = Ground {
            parent: (BlockHash::from_bytes([9; 32]), 4),
            ..world.ground
        };
        known.push(world.block(&changed, &other_parent, 3000));
        world.key = NodeKey::from_secret_bytes([6; 32]).unwrap();
        known.push(world.block(&changed, &other_parent, 4000));
        let times: Vec<u64> = known.iter().map(|b| b.header.timestamp_ms).collect();
        assert_eq!(times, [1000, 2000, 3000, 4000], "each was signed anew");
    }

    #[test]
    fn a_damaged_block_is_made_again() {
        let world = World::new();
        let payload = world.payload(1.0);
        let first = world.block(&payload, &world.ground, 1000);
        let path = path_beside(&world.path());
        let text = fs::read_to_string(&path).unwrap();
        for content in [
            String::new(),
            text.replace("1000", "1001"),
            text[..90].to_owned(),
        ] {
            fs::write(&path, content).unwrap();
            let again = world.block(&payload, &world.ground, 2000);
            again.verify().unwrap();
            assert_eq!(again.header.timestamp_ms, 2000);
            assert_ne!(again, first);
        }
    }
}
