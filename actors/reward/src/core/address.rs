use std::fmt;
use std::str::FromStr;

use sha3::{Digest as _, Keccak256};

const ADDRESS_LEN: usize = 20;
const POINT_LEN: usize = 65;

/// Whose wallet: 20 bytes, as Ethereum's addresses. Written as `0x` and 40 lower-case hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalletAddress(pub [u8; ADDRESS_LEN]);

/// What a text is that names no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an address is 0x and 40 hex digits")]
pub struct NotAnAddress;

impl WalletAddress {
    /// Of a key of secp256k1, as an uncompressed point: the end of the Keccak-256 of its coordinates.
    pub fn of_point(point: &[u8; POINT_LEN]) -> Self {
        let hash: [u8; 32] = Keccak256::digest(&point[1..]).into();
        let mut address = [0; ADDRESS_LEN];
        address.copy_from_slice(&hash[hash.len() - ADDRESS_LEN..]);
        Self(address)
    }
}

impl fmt::Display for WalletAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", hex::encode(self.0))
    }
}

impl FromStr for WalletAddress {
    type Err = NotAnAddress;

    /// Upper and lower case are the same.
    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        let digits = text.strip_prefix("0x").ok_or(NotAnAddress)?;
        let mut address = [0; ADDRESS_LEN];
        hex::decode_to_slice(digits, &mut address).map_err(|_| NotAnAddress)?;
        Ok(Self(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The generator of secp256k1, which is the key of the secret 1; its address is known from Ethereum.
    #[test]
    fn a_point_has_ethereums_address() {
        let mut point = [4; POINT_LEN];
        let coordinates = "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798\
                           483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8";
        hex::decode_to_slice(coordinates, &mut point[1..]).unwrap();
        let address = WalletAddress::of_point(&point);
        let text = "0x7e5f4552091a69125d5dfcb7b8c2659029395bdf";
        assert_eq!(address.to_string(), text);
        assert_eq!(text.parse(), Ok(address));
        let mixed = "0x7E5F4552091A69125d5dfCb7b8C2659029395Bdf";
        assert_eq!(mixed.parse(), Ok(address));
    }

    #[test]
    fn other_texts_are_refused() {
        let short = "0x7e5f4552091a69125d5dfcb7b8c2659029395b";
        let no_hex = "0x7e5f4552091a69125d5dfcb7b8c2659029395bdg";
        let bare = "7e5f4552091a69125d5dfcb7b8c2659029395bdf";
        for text in ["", "0x", short, no_hex, bare] {
            assert_eq!(text.parse::<WalletAddress>(), Err(NotAnAddress), "{text}");
        }
    }
}
