//! Where the passphrase of a key comes from: a person, or a file that nobody else can read. Never the command line,
//! which every user of the machine can see.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use zeroize::Zeroizing;

use super::key_file::read_private;

/// Bytes of a passphrase's file, at most.
const FILE_LEN_MAX: u64 = 1024;
/// Bytes of a new passphrase, at least.
const LEN_MIN: usize = 10;

/// How a passphrase is given.
#[derive(Debug, Args)]
pub struct PassphraseArgs {
    /// A file of mode 0600 whose first line is the passphrase [default: ask for it]
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl PassphraseArgs {
    /// The passphrase of a key that exists.
    pub fn get(&self) -> Result<Zeroizing<String>> {
        match &self.passphrase_file {
            Some(path) => of_file(path),
            None => ask("Passphrase: "),
        }
    }

    /// The passphrase of a new key, asked for twice.
    pub fn choose(&self) -> Result<Zeroizing<String>> {
        let chosen = match &self.passphrase_file {
            Some(path) => of_file(path)?,
            None => ask_twice()?,
        };
        if chosen.len() < LEN_MIN {
            bail!("the passphrase has less than {LEN_MIN} characters; several words are best");
        }
        Ok(chosen)
    }
}

fn of_file(path: &Path) -> Result<Zeroizing<String>> {
    let bytes = read_private(path, FILE_LEN_MAX)?;
    let text = std::str::from_utf8(&bytes).with_context(|| format!("{}", path.display()))?;
    Ok(Zeroizing::new(
        text.lines().next().unwrap_or_default().to_owned(),
    ))
}

fn ask_twice() -> Result<Zeroizing<String>> {
    let chosen = ask("New passphrase: ")?;
    if ask("The same again: ")? != chosen {
        bail!("the two differ");
    }
    Ok(chosen)
}

fn ask(prompt: &str) -> Result<Zeroizing<String>> {
    let said = rpassword::prompt_password(prompt);
    let said = said.context("no terminal to ask for the passphrase; give --passphrase-file")?;
    Ok(Zeroizing::new(said))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn given(content: &str, mode: u32) -> Result<Zeroizing<String>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passphrase");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let args = PassphraseArgs {
            passphrase_file: Some(path),
        };
        args.choose()
    }

    #[test]
    fn the_first_line_of_a_private_file_is_the_passphrase() {
        for content in [
            "many short words",
            "many short words\n",
            "many short words\nand a note\n",
        ] {
            assert_eq!(*given(content, 0o600).unwrap(), "many short words");
        }
        let open = given("many short words", 0o644).unwrap_err();
        assert!(open.to_string().contains("may be read by others"), "{open}");
    }

    #[test]
    fn a_new_key_wants_more_than_a_short_word() {
        for short in ["", "\nlonger than ten", "ninechars"] {
            let refused = given(short, 0o600).unwrap_err();
            assert!(refused.to_string().contains("less than 10"), "{refused}");
        }
    }
}
