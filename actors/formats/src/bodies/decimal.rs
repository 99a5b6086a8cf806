use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::str::FromStr;

use super::BodyError;

const LEN_MAX: usize = 32;

/// A decimal number as text, in its one spelling: no sign but `-`, no exponent, no leading zero, no trailing zero
/// after the point. `0.00001` and `100000` are decimals; `1e-5`, `.5`, `1.0` and `-0` are not.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Decimal(String);

impl Decimal {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The nearest 32-bit float.
    #[must_use]
    pub fn to_f32(&self) -> f32 {
        self.0.parse().expect("checked when it was made")
    }

    /// The nearest 64-bit float.
    #[must_use]
    pub fn to_f64(&self) -> f64 {
        self.0.parse().expect("checked when it was made")
    }

    /// The shortest decimal that reads back as this float.
    ///
    /// # Errors
    /// [`BodyError::Field`] if it is not finite or takes more than 32 characters.
    pub fn from_f32(value: f32) -> Result<Self, BodyError> {
        (value + 0.0).to_string().parse()
    }
}

fn is_integer(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_digit())
        && (text == "0" || !text.starts_with('0'))
}

fn is_fraction(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && !text.ends_with('0')
}

fn is_decimal(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (integer, fraction) = digits
        .split_once('.')
        .map_or((digits, None), |(i, f)| (i, Some(f)));
    text.len() <= LEN_MAX && text != "-0" && is_integer(integer) && fraction.is_none_or(is_fraction)
}

impl FromStr for Decimal {
    type Err = BodyError;

    fn from_str(text: &str) -> Result<Self, BodyError> {
        super::require(
            is_decimal(text),
            "decimal",
            "must be written in its shortest form, without an exponent",
        )?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling() {
        for text in ["0", "0.00001", "100000", "-3.5", "10", "0.1"] {
            assert_eq!(text.parse::<Decimal>().unwrap().as_str(), text);
        }
        for text in [
            "", "-", "-0", "00", "01", "1.0", "1.", ".5", "1e5", "+1", "inf", "NaN", "0.50", " 1",
            "1,5",
        ] {
            assert!(text.parse::<Decimal>().is_err(), "{text:?}");
        }
        assert!("1".repeat(33).parse::<Decimal>().is_err());
    }

    #[test]
    fn floats_come_back_exactly() {
        for value in [1e-5_f32, 100_000.0, 0.1, -2.5, 0.0, -0.0] {
            assert_eq!(Decimal::from_f32(value).unwrap().to_f32(), value);
        }
        assert_eq!(
            Decimal::from_f32(f32::from_bits(0x3727_c5ac))
                .unwrap()
                .as_str(),
            "0.00001"
        );
        assert!(Decimal::from_f32(f32::NAN).is_err());
        assert!(Decimal::from_f32(f32::INFINITY).is_err());
        assert!(Decimal::from_f32(1e-40).is_err());
    }
}
