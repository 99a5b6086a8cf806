//! One failing call of the disk, wherever it is.

use std::io;
use std::path::Path;
use std::sync::Arc;

use blyan_chain::Disk;
use blyan_chain::uploads::{UploadError, Uploads, UploadsConfig};
use blyan_formats::SignedBlock;

use super::{Draft, begin, draft, id, open, open_with, stored_payload};
use crate::support::{NOW_MS, ScriptedDisk, When};

/// What a client knows: which bytes were acknowledged, and whether the upload was said to be gone.
pub struct Client<'a> {
    pub dir: &'a Path,
    pub draft: &'a Draft,
    pub uploads: Uploads,
    pub acknowledged: u64,
    pub begun: u8,
    /// Whether the process ends at each error, as if it had been killed.
    pub killed: bool,
    pub errors: usize,
}

impl Client<'_> {
    /// Goes on until the block would be on the chain; returns what was published.
    pub fn drive(&mut self) -> SignedBlock {
        for _ in 0..20 {
            match self.go_on() {
                Ok(block) => return block,
                Err(error) => self.failed(&error),
            }
        }
        panic!("it never ends");
    }

    fn go_on(&mut self) -> Result<SignedBlock, UploadError> {
        let there = match self.uploads.of_block(self.draft.block.hash()) {
            Some(there) => there,
            None => {
                self.begun += 1;
                self.acknowledged = 0;
                begin(&self.uploads, self.begun, self.draft)?;
                self.uploads.status(id(self.begun))?
            }
        };
        assert!(
            there.received >= self.acknowledged,
            "an acknowledged byte is lost"
        );
        let mut at = there.received as usize;
        while at < self.draft.bytes.len() {
            let end = self.draft.bytes.len().min(at + 2000);
            let piece = &self.draft.bytes[at..end];
            let written = self.uploads.write(there.id, at as u64, piece, NOW_MS)?;
            self.acknowledged = written.received;
            at = end;
        }
        let block = self.uploads.publish(there.id)?;
        self.uploads.stored(there.id)?;
        Ok(block)
    }

    fn failed(&mut self, error: &UploadError) {
        self.errors += 1;
        if let UploadError::NotDurable { .. } = error {
            self.acknowledged = 0;
        }
        if self.killed {
            self.uploads = open(self.dir);
        }
    }
}

/// A run whose disk fails at call `failing`; returns how many calls a run makes.
fn run(failing: u64, when: When, killed: bool) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let draft = draft(1);
    let fail = move |number, _, at| match (number, at) == (failing, when) {
        true => Err(io::Error::other("no more")),
        false => Ok(()),
    };
    let disk = Arc::new(ScriptedDisk::new(fail));
    let counted: Arc<dyn Disk> = Arc::clone(&disk) as _;
    let uploads = open_with(dir.path(), counted, UploadsConfig::default(), NOW_MS);
    let mut client = Client {
        dir: dir.path(),
        draft: &draft,
        // Only the first call of all is made while opening.
        uploads: uploads.unwrap_or_else(|_| open(dir.path())),
        acknowledged: 0,
        begun: 0,
        killed,
        errors: 0,
    };
    assert_eq!(client.drive(), draft.block);
    assert!(client.errors <= 1, "one fault, one error");
    assert_eq!(
        stored_payload(dir.path(), &draft).as_ref(),
        Some(&draft.bytes)
    );
    let after = open(dir.path());
    assert!(
        after
            .of_block(draft.block.hash())
            .is_some_and(|upload| upload.stored)
    );
    disk.calls()
}

#[test]
fn no_fault_of_the_disk_loses_an_acknowledged_byte_or_ends_an_upload_for_good() {
    let calls = run(u64::MAX, When::Before, false);
    assert!(calls > 10, "{calls}");
    for failing in 0..calls {
        for when in [When::Before, When::After] {
            for killed in [false, true] {
                run(failing, when, killed);
            }
        }
    }
}
