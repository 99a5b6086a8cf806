//! What reached nobody.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use blyan_security::Alert;
use parking_lot::Mutex;
use serde::Serialize;

use super::AlertsError;

/// Within the data directory.
const FILE: &str = "alerts.undelivered.jsonl";
/// Beyond it alerts are in the audit log alone.
const LEN_MAX: u64 = 16 << 20;

/// A file with a JSON line for each alert that a webhook did not take.
pub struct DeadLetters {
    path: PathBuf,
    file: Mutex<File>,
}

#[derive(Serialize)]
struct Letter<'a> {
    to: &'a str,
    tries: u32,
    why: &'a str,
    #[serde(flatten)]
    alert: &'a Alert,
}

impl DeadLetters {
    /// Opens the file of a data directory, or makes it.
    pub fn open(data_dir: &Path) -> Result<Self, AlertsError> {
        let path = data_dir.join(FILE);
        let mut options = OpenOptions::new();
        let opened = options.append(true).create(true).mode(0o600).open(&path);
        match opened {
            Ok(file) => Ok(Self {
                path,
                file: Mutex::new(file),
            }),
            Err(source) => Err(AlertsError::DeadLetters {
                path: path.display().to_string(),
                source,
            }),
        }
    }

    /// Keeps what `to` did not take after so many tries.
    pub fn keep(&self, to: &str, alert: &Alert, tries: u32, why: &str) {
        tracing::warn!(to, tries, why, "an alert reached nobody");
        let letter = Letter {
            to,
            tries,
            why,
            alert,
        };
        if let Err(error) = self.write(&letter) {
            let path = self.path.display();
            tracing::error!(%path, %error, "an alert is in the audit log alone");
        }
    }

    fn write(&self, letter: &Letter<'_>) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(letter)?;
        line.push(b'\n');
        let mut file = self.file.lock();
        if file.metadata()?.len() + line.len() as u64 > LEN_MAX {
            return Err(std::io::Error::other("the file is full; move it away"));
        }
        file.write_all(&line)
    }
}
