//! Payload files on their way to the chain.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use blyan_formats::hash::HASH_LEN;
use blyan_formats::tensorblock::verify_stream;
use blyan_formats::{PayloadHash, TensorName};

/// What the names of payload files end with.
const SUFFIX: &str = ".tblk";

/// The name of an expert's payload file.
pub fn file_name(expert: TensorName) -> String {
    format!("{expert}{SUFFIX}")
}

/// The payload files in a folder, or the one that is named, in the order of their experts.
///
/// # Errors
/// There is none, or one has no expert's name.
pub fn find(path: &Path) -> Result<Vec<(TensorName, PathBuf)>> {
    let kind = fs::metadata(path).with_context(|| path.display().to_string())?;
    if !kind.is_dir() {
        let name = expert_of(path).with_context(|| {
            format!(
                "{}: a payload file is named like layer3.expert5{SUFFIX}",
                path.display()
            )
        })?;
        return Ok(vec![(name, path.to_owned())]);
    }
    let entries = fs::read_dir(path).with_context(|| path.display().to_string())?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        found.extend(expert_of(&path).map(|name| (name, path)));
    }
    if found.is_empty() {
        bail!(
            "{} holds no payload (layer<N>.expert<M>{SUFFIX}); `blyan miner extract` makes them",
            path.display()
        );
    }
    found.sort_unstable();
    Ok(found)
}

fn expert_of(path: &Path) -> Option<TensorName> {
    let name: TensorName = path
        .file_name()?
        .to_str()?
        .strip_suffix(SUFFIX)?
        .parse()
        .ok()?;
    name.expert().map(|_| name)
}

/// A payload whose every byte was checked.
pub struct PayloadFile {
    file: File,
    /// The expert.
    pub name: TensorName,
    /// Its Merkle root.
    pub hash: PayloadHash,
    /// Its length in bytes.
    pub len: u64,
}

impl PayloadFile {
    /// Opens and verifies a file.
    ///
    /// # Errors
    /// It cannot be read, or is no sound TensorBlock.
    pub fn open(name: TensorName, path: &Path) -> Result<Self> {
        let read = || -> Result<Self> {
            let mut file = File::open(path)?;
            let len = file.metadata()?.len();
            // The tree's root is the last of the file.
            let root_at = len
                .checked_sub(HASH_LEN as u64)
                .ok_or_else(|| anyhow!("it is shorter than a hash"))?;
            let mut root = [0; HASH_LEN];
            file.read_exact_at(&mut root, root_at)?;
            let hash = PayloadHash::from_bytes(root);
            verify_stream(&mut file, len, hash)?;
            Ok(Self {
                file,
                name,
                hash,
                len,
            })
        };
        read().with_context(|| {
            format!(
                "{} is not a sound payload; make it again with `blyan miner extract`",
                path.display()
            )
        })
    }

    /// The bytes from `offset` on, at most `len_max` of them.
    ///
    /// # Errors
    /// The file cannot be read, or was cut since it was opened.
    pub fn chunk(&self, offset: u64, len_max: u64) -> io::Result<Vec<u8>> {
        let len = self.len.saturating_sub(offset).min(len_max);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use blyan_formats::tensorblock::{TensorBuf, write_tensorblock};

    use super::*;

    fn payload() -> Vec<u8> {
        let values: Vec<f32> = (0..96 * 64).map(|i| i as f32).collect();
        let expert = TensorBuf::quantise_int8_blocks(96, 64, &values).unwrap();
        let mut bytes = Vec::new();
        write_tensorblock(&expert.as_tensor(), &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn the_experts_of_a_folder_are_found_in_order() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "layer2.expert10.tblk",
            "layer2.expert9.tblk",
            "layer2.router.tblk",
            "layer2.expert9.block.json",
            "notes",
        ] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let found = find(folder.path()).unwrap();
        let names: Vec<String> = found.iter().map(|(name, _)| name.to_string()).collect();
        assert_eq!(names, ["layer2.expert9", "layer2.expert10"]);
        let router = find(&folder.path().join("layer2.router.tblk")).unwrap_err();
        assert!(router.to_string().contains("is named like"), "{router}");
        let empty = find(tempfile::tempdir().unwrap().path()).unwrap_err();
        assert!(empty.to_string().contains("miner extract"), "{empty}");
    }

    #[test]
    fn chunks_are_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p");
        let bytes = payload();
        fs::write(&path, &bytes).unwrap();
        let file = PayloadFile::open(TensorName::expert_of(0, 0), &path).unwrap();
        assert_eq!(file.len, bytes.len() as u64);
        let mut joined = Vec::new();
        while (joined.len() as u64) < file.len {
            joined.extend(file.chunk(joined.len() as u64, 1000).unwrap());
        }
        assert!(joined == bytes);
        assert!(file.chunk(file.len, 1000).unwrap().is_empty());
    }

    #[test]
    fn a_damaged_payload_is_not_offered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p");
        let sound = payload();
        for at in [0, 130, sound.len() / 2, sound.len() - 1] {
            let mut damaged = sound.clone();
            damaged[at] ^= 1;
            fs::write(&path, damaged).unwrap();
            let refused = PayloadFile::open(TensorName::expert_of(0, 0), &path);
            let refused = format!("{:#}", refused.err().unwrap());
            assert!(
                refused.contains("not a sound payload"),
                "byte {at}: {refused}"
            );
        }
        for len in [0, 31, 100, sound.len() - 1] {
            fs::write(&path, &sound[..len]).unwrap();
            assert!(PayloadFile::open(TensorName::expert_of(0, 0), &path).is_err());
        }
    }
}
