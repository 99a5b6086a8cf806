//! A delta as bytes, version 1. Numbers are little-endian.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | `BLYD` |
//! | 1 | version, 1 |
//! | 32, 8 | learner, sequence |
//! | 8 | base version of the tile |
//! | 4 | values of the tile |
//!
//! then for every 65,536 values a sub-tile: 8 bytes of scale, and where it is not 0: kept values (4), the smallest of their
//! sizes (1), the Rice parameters of gaps and of sizes (1, 1), then for each kept value in rising places the gap to the
//! place before less 1, the size above the smallest, both Rice coded, and one bit that is 1 below zero; zeros to the
//! next byte.

use super::bits::{BitReader, BitWriter, RICE_MAX, best_rice};
use super::compress::{QUANTISED_MAX, SUB_TILE_LEN, SubTile};
use super::round::{Delta, DeltaId};
use super::slice::check_len;
use super::units::UNITS_MAX;
use crate::error::TileError;

const MAGIC: [u8; 4] = *b"BLYD";
const VERSION: u8 = 1;
/// A kept value has two codes of a bit or more, and a sign.
const KEPT_BITS_MIN: usize = 3;

/// The bytes of what a [`Compressor`](super::Compressor) sends of a tile of `tile_len` values.
///
/// # Errors
///
/// [`TileError::WrongLength`] unless `parts` are as many as the tile has sub-tiles.
pub fn encode(
    id: DeltaId,
    base: u64,
    tile_len: u32,
    parts: &[SubTile],
) -> Result<Vec<u8>, TileError> {
    let sub_tiles = (tile_len as usize).div_ceil(SUB_TILE_LEN);
    check_len("the delta", sub_tiles, parts.len())?;
    let mut bytes = Vec::new();
    bytes.extend(MAGIC);
    bytes.push(VERSION);
    bytes.extend(id.learner);
    bytes.extend(id.sequence.to_le_bytes());
    bytes.extend(base.to_le_bytes());
    bytes.extend(tile_len.to_le_bytes());
    parts.iter().for_each(|part| put_part(&mut bytes, part));
    Ok(bytes)
}

fn put_part(bytes: &mut Vec<u8>, part: &SubTile) {
    bytes.extend(part.scale.to_le_bytes());
    if part.scale == 0 {
        return;
    }
    let size = |value: i8| u32::from(value.unsigned_abs());
    let floor = part.kept.iter().map(|(_, v)| size(*v)).min().unwrap_or(1);
    let places = part.kept.iter().map(|(place, _)| *place);
    let before = std::iter::once(0).chain(places.clone().map(|place| place + 1));
    let gaps = places.zip(before).map(|(place, free)| place - free);
    let sizes = part.kept.iter().map(|(_, v)| size(*v) - floor);
    let (gap_rice, size_rice) = (best_rice(gaps.clone()), best_rice(sizes.clone()));
    bytes.extend((part.kept.len() as u32).to_le_bytes());
    bytes.extend([floor as u8, gap_rice, size_rice]);
    let mut bits = BitWriter::new(bytes);
    for ((gap, size), (_, value)) in gaps.zip(sizes).zip(&part.kept) {
        bits.rice(gap, gap_rice);
        bits.rice(size, size_rice);
        bits.bit(*value < 0);
    }
}

/// Reads a stranger's delta to a tile of `tile_len` values. Never holds more than the bytes given can stand for.
///
/// # Errors
///
/// [`TileError::Malformed`] says what is wrong, [`TileError::Version`] names a version that this code does not know,
/// [`TileError::WrongLength`] a delta to a tile of another size.
pub fn decode(bytes: &[u8], tile_len: usize) -> Result<Delta, TileError> {
    let mut rest = bytes;
    if take::<4>(&mut rest)? != MAGIC {
        return Err(TileError::Malformed("it does not begin as a delta"));
    }
    let [version] = take(&mut rest)?;
    if version != VERSION {
        return Err(TileError::Version { found: version });
    }
    let id = DeltaId {
        learner: take(&mut rest)?,
        sequence: u64::from_le_bytes(take(&mut rest)?),
    };
    let base = u64::from_le_bytes(take(&mut rest)?);
    let found = u32::from_le_bytes(take(&mut rest)?) as usize;
    check_len("the delta's tile", tile_len, found)?;
    let mut entries = Vec::new();
    for start in (0..tile_len).step_by(SUB_TILE_LEN) {
        let sub_tile_len = SUB_TILE_LEN.min(tile_len - start);
        take_part(&mut rest, start as u32, sub_tile_len, &mut entries)?;
    }
    if !rest.is_empty() {
        return Err(TileError::Malformed("bytes follow its end"));
    }
    Ok(Delta {
        id,
        base,
        tile_len,
        entries,
    })
}

fn take_part(
    rest: &mut &[u8],
    start: u32,
    sub_tile_len: usize,
    entries: &mut Vec<(u32, i64)>,
) -> Result<(), TileError> {
    let scale = i64::from_le_bytes(take(rest)?);
    if scale == 0 {
        return Ok(());
    }
    if !(1..=UNITS_MAX / QUANTISED_MAX).contains(&scale) {
        return Err(TileError::Malformed("a scale is out of range"));
    }
    let kept = u32::from_le_bytes(take(rest)?) as usize;
    let [floor, gap_rice, size_rice] = take(rest)?;
    if gap_rice > RICE_MAX || size_rice > RICE_MAX {
        return Err(TileError::Malformed("a Rice parameter is out of range"));
    }
    let Some(size_max) = (QUANTISED_MAX as u32).checked_sub(u32::from(floor)) else {
        return Err(TileError::Malformed("a value is out of range"));
    };
    if floor == 0 || kept == 0 || kept > sub_tile_len || kept > rest.len() * 8 / KEPT_BITS_MIN {
        return Err(TileError::Malformed("a count is out of range"));
    }
    entries.reserve(kept);
    let mut bits = BitReader::new(rest);
    let mut free = 0;
    for _ in 0..kept {
        let Some(gap_max) = (sub_tile_len as u32).checked_sub(free + 1) else {
            return Err(TileError::Malformed("a place is outside the tile"));
        };
        let place = free + bits.rice(gap_rice, gap_max)?;
        let size = i64::from(u32::from(floor) + bits.rice(size_rice, size_max)?);
        let value = if bits.bit()? { -size } else { size };
        entries.push((start + place, value * scale));
        free = place + 1;
    }
    *rest = bits.finish()?;
    Ok(())
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], TileError> {
    let (taken, behind) = rest
        .split_first_chunk()
        .ok_or(TileError::Malformed("it ends too early"))?;
    *rest = behind;
    Ok(*taken)
}
