//! Round trips of TensorBlocks, and damage in random places. A failing case prints its input and a line for
//! `proptest-regressions` that replays it.

use blyan_formats::PayloadHash;
use blyan_formats::merkle;
use blyan_formats::tensorblock::{
    HEADER_LEN, Section, StreamError, TensorBuf, TensorError, TensorFault, TensorView,
    verify_proof, verify_stream, write_tensorblock,
};
use half::f16;
use proptest::prelude::*;

fn file_of(tensor: &TensorBuf) -> (Vec<u8>, PayloadHash) {
    let mut file = Vec::new();
    let written = write_tensorblock(&tensor.as_tensor(), &mut file).unwrap();
    assert_eq!(written.len, file.len() as u64);
    (file, written.payload_hash)
}

/// What a node does with a file before its first use; a stream of it is judged the same.
fn open(file: &[u8], expected: PayloadHash) -> Result<TensorView<'_>, TensorFault> {
    let whole = verified(file, expected);
    match (
        &whole,
        verify_stream(&mut &file[..], file.len() as u64, expected),
    ) {
        (Ok(view), Ok(spec)) => assert_eq!(*view.spec(), spec),
        (Err(whole), Err(StreamError::Fault(streamed))) => assert_eq!(*whole, streamed),
        (Err(_), Err(StreamError::NotFinite { .. })) => {}
        // A stream lies nowhere in memory.
        (Err(TensorFault::Misaligned), Ok(_)) => {}
        (whole, streamed) => panic!("{:?}, as a stream {streamed:?}", whole.as_ref().err()),
    }
    whole
}

fn verified(file: &[u8], expected: PayloadHash) -> Result<TensorView<'_>, TensorFault> {
    let view = TensorView::parse(file)?;
    view.verify_full(expected)?;
    Ok(view)
}

/// An expert of the default model: 3 tiles, a scale section, padding.
fn expert(seed: u32) -> TensorBuf {
    let values: Vec<f32> = (0..288 * 576)
        .map(|i: u32| ((i ^ seed).wrapping_mul(2_654_435_761) as i32) as f32)
        .collect();
    TensorBuf::quantise_int8_rows(288, 576, &values).unwrap()
}

fn finite() -> impl Strategy<Value = f32> {
    prop::num::f32::NORMAL | prop::num::f32::SUBNORMAL | prop::num::f32::ZERO
}

fn small() -> impl Strategy<Value = f32> {
    -1e6_f32..1e6
}

prop_compose! {
    fn fp32()(rows in 1..5_usize, cols in 1..70_usize)
        (values in prop::collection::vec(finite(), rows * cols), rows in Just(rows), cols in Just(cols)) -> TensorBuf {
        TensorBuf::fp32(rows, cols, values).unwrap()
    }
}

prop_compose! {
    fn fp16()(rows in 1..5_usize, cols in 1..70_usize)
        (values in prop::collection::vec(-6e4_f32..6e4, rows * cols), rows in Just(rows), cols in Just(cols)) -> TensorBuf {
        TensorBuf::fp16(rows, cols, values.into_iter().map(f16::from_f32).collect()).unwrap()
    }
}

prop_compose! {
    fn int8_rows()(rows in 1..1500_usize, cols in 1..200_usize)
        (values in prop::collection::vec(any::<i8>(), rows * cols), scales in prop::collection::vec(small(), rows),
         rows in Just(rows), cols in Just(cols)) -> TensorBuf {
        TensorBuf::int8_rows(rows, cols, values, scales).unwrap()
    }
}

prop_compose! {
    fn int8_blocks()(rows in 1..6_usize, blocks in 1..5_usize)
        (values in prop::collection::vec(any::<i8>(), rows * blocks * 32),
         scales in prop::collection::vec(small(), rows * blocks), rows in Just(rows), blocks in Just(blocks)) -> TensorBuf {
        TensorBuf::int8_blocks(rows, blocks * 32, values, scales).unwrap()
    }
}

prop_compose! {
    fn uint4_blocks()(rows in 1..6_usize, blocks in 1..5_usize)
        (values in prop::collection::vec(0..16_u8, rows * blocks * 32),
         scales in prop::collection::vec(small(), rows * blocks), minimums in prop::collection::vec(small(), rows * blocks),
         rows in Just(rows), blocks in Just(blocks)) -> TensorBuf {
        TensorBuf::pack_uint4_blocks(rows, blocks * 32, &values, scales, minimums).unwrap()
    }
}

fn any_tensor() -> impl Strategy<Value = TensorBuf> {
    prop_oneof![fp32(), fp16(), int8_rows(), int8_blocks(), uint4_blocks()]
}

fn values_of(view: &TensorView<'_>) -> Vec<u32> {
    let tensor = view.tensor();
    let mut values = vec![f32::NAN; tensor.rows() * tensor.cols()];
    tensor.dequantise_into(&mut values).unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn what_was_written_is_read(tensor in any_tensor()) {
        let (file, hash) = file_of(&tensor);
        let view = open(&file, hash).unwrap();
        prop_assert_eq!(*view.spec(), tensor.as_tensor().spec());
        prop_assert_eq!(view.sections().data.start % 4096, 0);
        let mut values = vec![f32::NAN; tensor.as_tensor().rows() * tensor.as_tensor().cols()];
        tensor.as_tensor().dequantise_into(&mut values).unwrap();
        prop_assert_eq!(values_of(&view), values.into_iter().map(f32::to_bits).collect::<Vec<_>>());
        prop_assert_eq!(file_of(&tensor), (file.clone(), hash));
        prop_assert_eq!(merkle::leaf_count_of_file(file.len() as u64), Some(view.tile_count()));
    }

    #[test]
    fn some_rows_are_a_part_of_all_rows(tensor in any_tensor(), at in any::<(prop::sample::Index, prop::sample::Index)>()) {
        let tensor = tensor.as_tensor();
        let (rows, cols) = (tensor.rows(), tensor.cols());
        let start = at.0.index(rows);
        let end = start + at.1.index(rows - start + 1);
        let mut all = vec![0.0; rows * cols];
        tensor.dequantise_into(&mut all).unwrap();
        let mut some = vec![0.0; (end - start) * cols];
        tensor.dequantise_rows(start..end, &mut some).unwrap();
        prop_assert_eq!(&all[start * cols..end * cols], &some[..]);
    }

    #[test]
    fn a_flipped_bit_is_found_and_its_section_named(
        tensor in any_tensor(), at in any::<prop::sample::Index>(), bit in 0..8_u32
    ) {
        let (mut file, hash) = file_of(&tensor);
        let sections = TensorView::parse(&file).unwrap().sections().clone();
        let at = at.index(file.len());
        file[at] ^= 1 << bit;
        let fault = open(&file, hash).unwrap_err();
        let expected = sections.section_at(at as u64);
        let named = match fault {
            TensorFault::Tile { start, end, first, last, .. } => {
                (start..end).contains(&(at as u64)) && first <= expected && expected <= last
            }
            _ => fault.section() == Some(expected),
        };
        prop_assert!(named, "byte {} in {}: {}", at, expected, fault);
    }

    #[test]
    fn a_truncated_or_longer_file_is_found(tensor in any_tensor(), at in any::<prop::sample::Index>(), more in 1..200_usize) {
        let (mut file, hash) = file_of(&tensor);
        prop_assert!(open(&file[..at.index(file.len())], hash).is_err());
        file.resize(file.len() + more, 0);
        prop_assert!(matches!(open(&file, hash), Err(TensorFault::FileLen { .. })), "trailing bytes");
    }

    #[test]
    fn random_bytes_are_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..70_000), with_magic in any::<bool>()) {
        if with_magic && bytes.len() >= 12 {
            bytes[..12].copy_from_slice(b"TBLOCK01\x01\0\0\0");
        }
        prop_assert!(TensorView::parse(&bytes).is_err());
    }

    #[test]
    fn hostile_headers_are_refused_without_overflow(
        dtype in 0..8_u32, quantisation in 0..5_u32, layout in 0..3_u32, rows in edge(), cols in edge(),
        offsets in prop::array::uniform3(edge())
    ) {
        let (mut file, _) = file_of(&expert(1));
        file[12..16].copy_from_slice(&dtype.to_le_bytes());
        file[16..24].copy_from_slice(&rows.to_le_bytes());
        file[24..32].copy_from_slice(&cols.to_le_bytes());
        file[32..36].copy_from_slice(&layout.to_le_bytes());
        file[36..40].copy_from_slice(&quantisation.to_le_bytes());
        for (i, offset) in offsets.iter().enumerate() {
            file[40 + 8 * i..48 + 8 * i].copy_from_slice(&offset.to_le_bytes());
        }
        let fault = TensorView::parse(&file).unwrap_err();
        prop_assert_eq!(fault.section(), Some(Section::Header));
    }

    #[test]
    fn quantised_blocks_are_within_half_a_step(values in prop::collection::vec(small(), 64)) {
        let tensor = TensorBuf::quantise_int8_blocks(1, 64, &values).unwrap();
        let mut back = vec![0.0; 64];
        tensor.as_tensor().dequantise_into(&mut back).unwrap();
        for (row, back) in values.chunks(32).zip(back.chunks(32)) {
            let largest = row.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
            for (value, back) in row.iter().zip(back) {
                prop_assert!((value - back).abs() <= largest / 127.0 * 0.5001, "{} became {}", value, back);
            }
        }
    }
}

/// Numbers around the edges of 64-bit arithmetic.
fn edge() -> impl Strategy<Value = u64> {
    let edges = [
        0,
        1,
        31,
        32,
        128,
        4096,
        1 << 31,
        1 << 32,
        (1 << 32) + 1,
        1 << 61,
        1 << 62,
        1 << 63,
        u64::MAX - 31,
        u64::MAX,
    ];
    prop_oneof![prop::sample::select(edges.to_vec()), any::<u64>()]
}

#[test]
fn every_byte_of_a_small_file_is_covered() {
    let tensor = TensorBuf::int8_rows(2, 3, vec![1, -2, 3, -4, 5, -6], vec![0.5, 2.0]).unwrap();
    let (file, hash) = file_of(&tensor);
    for at in 0..file.len() {
        let mut damaged = file.clone();
        damaged[at] ^= 0x80;
        assert!(open(&damaged, hash).is_err(), "byte {at}");
    }
}

#[test]
fn a_stream_with_a_number_that_is_not_finite_is_refused_where_it_stands() {
    let (mut file, _) = file_of(&expert(7));
    let scale = HEADER_LEN + 4 * 20;
    file[scale..scale + 4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    let covered = TensorView::parse(&file).unwrap().sections().tree.start as usize;
    let leaves = file[..covered]
        .chunks(merkle::LEAF_LEN)
        .map(merkle::leaf_hash);
    let tree = merkle::build(leaves.collect());
    file[covered..].copy_from_slice(tree.as_flattened());
    let hash = PayloadHash::from_bytes(*tree.last().unwrap());
    assert!(verified(&file, hash).is_ok());
    let refused = verify_stream(&mut &file[..], file.len() as u64, hash).unwrap_err();
    assert!(
        matches!(refused, StreamError::NotFinite { at } if at == scale as u64),
        "{refused}"
    );
}

#[test]
fn faults_name_their_section() {
    let (file, hash) = file_of(&expert(7));
    let sections = TensorView::parse(&file).unwrap().sections().clone();
    let damaged = |at: u64| {
        let mut file = file.clone();
        file[at as usize] ^= 1;
        open(&file, hash).unwrap_err()
    };
    assert!(matches!(damaged(70), TensorFault::Header(_)));
    assert_eq!(
        damaged(sections.padding.start + 5),
        TensorFault::Padding {
            at: sections.padding.start + 5
        }
    );
    assert_eq!(damaged(sections.tree.start), TensorFault::Tree);
    assert_eq!(damaged(sections.tree.end - 1), TensorFault::Tree);
    let expected = TensorFault::Tile {
        index: 2,
        start: 131_072,
        end: sections.tree.start,
        first: Section::Data,
        last: Section::Data,
    };
    assert_eq!(damaged(140_000), expected);
    let TensorFault::Tile {
        index: 0,
        first: Section::Header,
        last: Section::Data,
        ..
    } = damaged(200)
    else {
        panic!("scales lie in tile 0");
    };
}

#[test]
fn a_sound_file_of_another_tensor_is_another_payload() {
    let (file, found) = file_of(&expert(1));
    let (_, expected) = file_of(&expert(2));
    assert_eq!(
        open(&file, expected).unwrap_err(),
        TensorFault::WrongPayload { expected, found }
    );
}

#[test]
fn an_exchanged_tree_is_the_trees_fault() {
    let (mut file, hash) = file_of(&expert(1));
    let (other, _) = file_of(&expert(2));
    let tree = TensorView::parse(&file).unwrap().sections().tree.start as usize;
    file[tree..].copy_from_slice(&other[tree..]);
    assert_eq!(open(&file, hash).unwrap_err(), TensorFault::Tree);
}

#[test]
fn tiles_are_verified_alone() {
    let (mut file, hash) = file_of(&expert(3));
    file[140_000] ^= 4;
    let view = TensorView::parse(&file).unwrap();
    assert_eq!(view.verify_tile(0, hash), Ok(()));
    assert_eq!(view.verify_tile(1, hash), Ok(()));
    assert!(matches!(
        view.verify_tile(2, hash),
        Err(TensorFault::Tile { index: 2, .. })
    ));
    assert_eq!(
        view.verify_tile(3, hash),
        Err(TensorFault::NoSuchTile { index: 3, count: 3 })
    );
    assert_eq!(
        view.verify_tile(u64::MAX, hash),
        Err(TensorFault::NoSuchTile {
            index: u64::MAX,
            count: 3
        })
    );
    assert_eq!(
        view.verify_tile(1, PayloadHash::of_bytes(b"other")),
        Err(TensorFault::Tree)
    );
}

#[test]
fn proofs_hold_for_their_tile_only() {
    let (file, hash) = file_of(&expert(4));
    let view = TensorView::parse(&file).unwrap();
    for index in 0..3 {
        let proof = view.tile_proof(index).unwrap();
        let tile = view.tile(index).unwrap();
        assert!(verify_proof(hash, 3, &proof, tile));
        assert!(!verify_proof(
            hash,
            3,
            &proof,
            view.tile((index + 1) % 3).unwrap()
        ));
        let mut longer = proof.clone();
        longer.siblings.push([0; 32]);
        assert!(!verify_proof(hash, 3, &longer, tile));
    }
    assert_eq!(view.tile_proof(3), None);
    assert_eq!(view.tile(3), None);
}

#[test]
fn a_slice_off_its_alignment_is_refused() {
    let (file, hash) = file_of(&expert(5));
    let mut shifted = vec![0; file.len() + 1];
    shifted[1..].copy_from_slice(&file);
    let offset = usize::from(shifted.as_ptr() as usize % 4 == 3);
    assert_eq!(offset, 0, "the allocator aligns large buffers");
    assert_eq!(
        open(&shifted[1..], hash).unwrap_err(),
        TensorFault::Misaligned
    );
}

#[test]
fn int8_quantiser_rounds_half_away_from_zero() {
    let row = |values: [f32; 4]| {
        let (file, _) = file_of(&TensorBuf::quantise_int8_rows(1, 4, &values).unwrap());
        let start = TensorView::parse(&file).unwrap().sections().data.start as usize;
        (
            file[start..start + 4]
                .iter()
                .map(|b| *b as i8)
                .collect::<Vec<_>>(),
            values_of(&TensorView::parse(&file).unwrap()),
        )
    };
    assert_eq!(row([127.0, 0.5, -0.5, -126.5]).0, [127, 1, -1, -127]);
    assert_eq!(row([-254.0, 3.0, 1.0, 0.99]).0, [-127, 2, 1, 0]);
    assert_eq!(row([0.0, -0.0, 0.0, 0.0]), (vec![0; 4], vec![0; 4]));
    assert_eq!(row([1e-40, -1e-42, 0.0, 1e-45]), (vec![0; 4], vec![0; 4]));
    assert_eq!(row([f32::MAX, -f32::MAX, 1.0, 0.0]).0, [127, -127, 0, 0]);
}

#[test]
fn bad_values_are_refused() {
    let refused = |result: Result<TensorBuf, TensorError>| result.unwrap_err();
    assert!(matches!(
        refused(TensorBuf::quantise_int8_rows(1, 2, &[1.0, f32::NAN])),
        TensorError::NotFinite {
            what: "value",
            index: 1
        }
    ));
    assert!(matches!(
        refused(TensorBuf::fp32(2, 2, vec![0.0; 3])),
        TensorError::Len {
            expected: 4,
            found: 3,
            ..
        }
    ));
    assert!(matches!(
        refused(TensorBuf::fp32(0, 2, vec![])),
        TensorError::Shape { .. }
    ));
    assert!(matches!(
        refused(TensorBuf::int8_blocks(1, 33, vec![0; 33], vec![1.0])),
        TensorError::Shape { .. }
    ));
    assert!(matches!(
        refused(TensorBuf::pack_uint4_blocks(
            1,
            32,
            &[16; 32],
            vec![1.0],
            vec![0.0]
        )),
        TensorError::Uint4Range { index: 0 }
    ));
    let infinite = TensorBuf::int8_rows(1, 1, vec![1], vec![f32::INFINITY]).unwrap();
    let mut out = Vec::new();
    assert!(matches!(
        write_tensorblock(&infinite.as_tensor(), &mut out),
        Err(TensorError::NotFinite { .. })
    ));
    assert!(out.is_empty());
}

#[test]
fn rows_are_joined_without_change() {
    let part = |seed: u8| {
        let values: Vec<u8> = (0..64).map(|i: u8| i.wrapping_mul(seed) % 16).collect();
        TensorBuf::pack_uint4_blocks(2, 32, &values, vec![f32::from(seed); 2], vec![-1.0; 2])
            .unwrap()
    };
    let mut joined = part(3);
    joined.append_rows(part(5)).unwrap();
    let mut values = vec![0.0; 128];
    joined.as_tensor().dequantise_into(&mut values).unwrap();
    for (half, seed) in values.chunks(64).zip([3, 5]) {
        let mut alone = vec![0.0; 64];
        part(seed).as_tensor().dequantise_into(&mut alone).unwrap();
        assert_eq!(half, alone);
    }
    let other = TensorBuf::fp32(1, 32, vec![0.0; 32]).unwrap();
    assert!(matches!(joined.append_rows(other), Err(TensorError::Join)));
    assert_eq!(joined.as_tensor().rows(), 4);
}

#[test]
fn header_is_as_documented() {
    let (file, _) = file_of(&expert(1));
    assert_eq!(&file[..12], b"TBLOCK01\x01\0\0\0");
    assert_eq!(file[12], 2, "int8");
    assert_eq!(file[36], 1, "a scale a row");
    assert!(file[64..HEADER_LEN].iter().all(|b| *b == 0));
    assert_eq!(file.len(), 4096 + 288 * 576 + 32 * (3 + 2 + 1));
}

#[test]
fn a_failing_disk_is_reported() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    assert!(matches!(
        write_tensorblock(&expert(1).as_tensor(), &mut Full),
        Err(TensorError::Io(_))
    ));
}
