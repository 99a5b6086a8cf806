//! The recogniser: walks over bytes and accepts exactly the canonical spelling, without building a value.

use std::cmp::Ordering;

use super::{CanonicalError, DEPTH_MAX, TEXT_LEN_MAX, is_plain};

/// Longest part of a key quoted in an error, in characters.
const QUOTED_MAX: usize = 64;

type Result<T> = std::result::Result<T, CanonicalError>;

/// Accepts exactly the bytes that the encoder could have written.
pub(super) fn check_canonical(bytes: &[u8]) -> Result<()> {
    let mut scan = Scan { bytes, at: 0 };
    scan.value(0)?;
    if scan.at == bytes.len() {
        Ok(())
    } else {
        Err(scan.fault("bytes after the value"))
    }
}

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    fn fault(&self, what: &'static str) -> CanonicalError {
        CanonicalError::Syntax { at: self.at, what }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn next(&mut self) -> Result<u8> {
        let byte = self.peek().ok_or(self.fault("it ends too early"))?;
        self.at += 1;
        Ok(byte)
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8, what: &'static str) -> Result<()> {
        if self.eat(byte) {
            Ok(())
        } else {
            Err(self.fault(what))
        }
    }

    fn value(&mut self, depth: usize) -> Result<()> {
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.list(depth),
            Some(b'"') => self.text(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word(b"true"),
            Some(b'f') => self.word(b"false"),
            Some(b'n') => self.word(b"null"),
            Some(_) => Err(self.fault("no value starts like this")),
            None => Err(self.fault("it ends too early")),
        }
    }

    fn word(&mut self, word: &[u8]) -> Result<()> {
        if !self.bytes[self.at..].starts_with(word) {
            return Err(self.fault("no value starts like this"));
        }
        self.at += word.len();
        Ok(())
    }

    fn list(&mut self, depth: usize) -> Result<()> {
        self.open(depth)?;
        if self.eat(b']') {
            return Ok(());
        }
        loop {
            self.value(depth + 1)?;
            if self.eat(b']') {
                return Ok(());
            }
            self.expect(b',', "expected `,` or `]`")?;
        }
    }

    fn object(&mut self, depth: usize) -> Result<()> {
        self.open(depth)?;
        if self.eat(b'}') {
            return Ok(());
        }
        let mut last_key = None;
        loop {
            let key = self.at;
            self.text()?;
            if let Some(last) = last_key.replace(key) {
                self.check_order(last, key)?;
            }
            self.expect(b':', "expected `:`")?;
            self.value(depth + 1)?;
            if self.eat(b'}') {
                return Ok(());
            }
            self.expect(b',', "expected `,` or `}`")?;
        }
    }

    fn open(&mut self, depth: usize) -> Result<()> {
        if depth == DEPTH_MAX {
            return Err(CanonicalError::TooDeep);
        }
        self.at += 1;
        Ok(())
    }

    /// Compares two texts of the input, given where they start, by their code points.
    fn check_order(&self, last: usize, key: usize) -> Result<()> {
        match self.chars_of(last).cmp(self.chars_of(key)) {
            Ordering::Less => Ok(()),
            Ordering::Equal => Err(CanonicalError::DuplicateKey(
                self.chars_of(key).take(QUOTED_MAX).collect(),
            )),
            Ordering::Greater => Err(CanonicalError::Syntax {
                at: key,
                what: "keys are not in code point order",
            }),
        }
    }

    /// The characters of the text that starts at `at` and was scanned before.
    fn chars_of(&self, at: usize) -> impl Iterator<Item = char> {
        let mut scan = Scan {
            bytes: self.bytes,
            at: at + 1,
        };
        std::iter::from_fn(move || scan.next_char().ok().flatten())
    }

    fn number(&mut self) -> Result<()> {
        let start = self.at;
        self.eat(b'-');
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        if matches!(self.peek(), Some(b'.' | b'e' | b'E')) {
            return Err(CanonicalError::Float);
        }
        let digits = &self.bytes[start..self.at];
        if matches!(digits, [b'-'] | [b'-', b'0', ..] | [b'0', _, ..]) {
            return Err(CanonicalError::Syntax {
                at: start,
                what: "not the shortest form of an integer",
            });
        }
        let text = std::str::from_utf8(digits).unwrap_or_default();
        if text.parse::<u64>().is_err() && text.parse::<i64>().is_err() {
            return Err(CanonicalError::IntegerRange);
        }
        Ok(())
    }

    fn text(&mut self) -> Result<()> {
        self.expect(b'"', "expected a text")?;
        let start = self.at;
        loop {
            self.skip_plain();
            if self.at - start > TEXT_LEN_MAX {
                return Err(CanonicalError::TextTooLong);
            }
            if self.next_char()?.is_none() {
                return Ok(());
            }
        }
    }

    /// Skips characters that stand for themselves.
    fn skip_plain(&mut self) {
        let rest = &self.bytes[self.at..];
        let special = rest.iter().position(|byte| !is_plain(*byte));
        self.at += special.unwrap_or(rest.len());
    }

    /// The next character of a text in its one spelling; none at the closing quote.
    fn next_char(&mut self) -> Result<Option<char>> {
        match self.next()? {
            b'"' => Ok(None),
            b'\\' => self.escape().map(Some),
            byte if is_plain(byte) => Ok(Some(byte.into())),
            _ => {
                self.at -= 1;
                Err(self.fault("this character must be escaped"))
            }
        }
    }

    fn escape(&mut self) -> Result<char> {
        Ok(match self.next()? {
            b'"' => '"',
            b'\\' => '\\',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => self.unicode()?,
            _ => return Err(self.fault("unknown escape")),
        })
    }

    fn unicode(&mut self) -> Result<char> {
        let mut units = [self.hex4()?, 0];
        let is_pair = (0xd800..0xdc00).contains(&units[0]);
        if is_pair {
            self.expect(b'\\', "lone surrogate")?;
            self.expect(b'u', "lone surrogate")?;
            units[1] = self.hex4()?;
        }
        let decoded = char::decode_utf16(units.into_iter().take(1 + usize::from(is_pair))).next();
        let c = decoded
            .and_then(std::result::Result::ok)
            .ok_or(self.fault("lone surrogate"))?;
        let has_shorter_form = matches!(c, ' '..='~' | '\u{8}' | '\u{c}' | '\n' | '\r' | '\t');
        if has_shorter_form {
            Err(self.fault("this character has a shorter form"))
        } else {
            Ok(c)
        }
    }

    fn hex4(&mut self) -> Result<u16> {
        (0..4).try_fold(0, |unit, _| {
            let digit = match self.next()? {
                byte @ b'0'..=b'9' => byte - b'0',
                byte @ b'a'..=b'f' => byte - b'a' + 10,
                _ => return Err(self.fault("expected a lower-case hexadecimal digit")),
            };
            Ok(unit << 4 | u16::from(digit))
        })
    }
}
