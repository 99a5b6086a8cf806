use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::{AuditError, AuditFault, FaultKind, LINE_LEN_MAX};

const EXTENSION: &str = ".audit";
/// Digits of a file's number, enough for any `u64`.
const DIGITS: usize = 20;

/// One file of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// Number of its first record, as its name says.
    pub(super) first: u64,
    pub(super) path: PathBuf,
}

impl Segment {
    pub(super) fn new(dir: &Path, first: u64) -> Self {
        Self {
            first,
            path: dir.join(format!("{first:0DIGITS$}{EXTENSION}")),
        }
    }

    /// The file's name, for messages.
    pub(super) fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// All files of the log in order; none where the folder is not there yet.
    pub(super) fn list(dir: &Path) -> Result<Vec<Self>, AuditError> {
        let failed = |error: io::Error| AuditError::io("read", dir, &error);
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut segments = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_file = entry.file_type().map_err(failed)?.is_file();
            let first = Self::number(&name).filter(|_| is_file);
            let first = first.ok_or_else(|| stranger(name))?;
            segments.push(Self::new(dir, first));
        }
        segments.sort_by_key(|segment| segment.first);
        Ok(segments)
    }

    fn number(name: &str) -> Option<u64> {
        let digits = name.strip_suffix(EXTENSION)?;
        let plain = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse().ok().filter(|_| plain)
    }

    pub(super) fn lines(&self) -> Result<Lines, AuditError> {
        let file =
            File::open(&self.path).map_err(|error| AuditError::io("open", &self.path, &error))?;
        Ok(Lines {
            path: self.path.clone(),
            reader: BufReader::new(file),
        })
    }
}

fn stranger(file: String) -> AuditError {
    AuditFault {
        file,
        seq: 0,
        kind: FaultKind::Stranger,
    }
    .into()
}

/// A line as it stands in a file.
pub(super) struct Line {
    /// Without its end.
    pub(super) bytes: Vec<u8>,
    /// Whether it has an end.
    pub(super) whole: bool,
}

/// The lines of one file. A line that is longer than any record comes in pieces, none of which is one.
pub(super) struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
}

impl Iterator for Lines {
    type Item = Result<Line, AuditError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut bytes = Vec::new();
        let mut bounded = (&mut self.reader).take(LINE_LEN_MAX as u64 + 1);
        match bounded.read_until(b'\n', &mut bytes) {
            Ok(0) => None,
            Ok(len) => {
                let ended = bytes.pop_if(|byte| *byte == b'\n').is_some();
                // What is too long for a record is no torn one either.
                let whole = ended || len > LINE_LEN_MAX;
                Some(Ok(Line { bytes, whole }))
            }
            Err(error) => Some(Err(AuditError::io("read", &self.path, &error))),
        }
    }
}
