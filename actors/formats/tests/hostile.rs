//! Hostile GGUF, TensorBlock and JSON inputs: each is refused with a clear error, none panics, and the heap never grows
//! by more than the input's length + 1 MiB, counted by the allocator.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use blyan_formats::bodies::Payload;
use blyan_formats::canonical::{CanonicalError, from_canonical};
use blyan_formats::gguf::{Gguf, METADATA_MAX, TENSORS_MAX};
use blyan_formats::{
    ArchitectureBody, GenesisBody, ManifestBody, PayloadHash, SignedBlock, TensorView,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use support::{entry, file, header, tensor, text, texts};

struct Counting;

// Of each thread: what other tests allocate meanwhile is not the reader's.
thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn grown(by: usize) {
    let now = NOW.get() + by as isize;
    NOW.set(now);
    PEAK.set(PEAK.get().max(now));
}

fn shrunk(by: usize) {
    NOW.set(NOW.get() - by as isize);
}

// SAFETY: every call is handed to the system's allocator unchanged; the counters touch no memory of the caller.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        shrunk(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    /// Counts the bytes that live before and after, as dhat does; the system moves large buffers without a copy.
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        shrunk(layout.size());
        grown(len);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, len) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SLACK: usize = 1 << 20;

/// Runs `read` and checks how far the heap grew meanwhile.
fn bounded<T>(input: &[u8], what: &str, read: impl FnOnce(&[u8]) -> T) -> T {
    let before = NOW.get();
    PEAK.set(before);
    let result = read(input);
    let grown = (PEAK.get() - before) as usize;
    assert!(
        grown <= input.len() + SLACK,
        "{what}: {} bytes of input, heap grew by {grown}",
        input.len()
    );
    result
}

fn read_gguf(bytes: &[u8]) -> Result<(), String> {
    Gguf::parse(bytes)
        .map(|_| ())
        .map_err(|error| error.to_string())
}

fn read_tensorblock(bytes: &[u8]) -> Result<(), String> {
    let view = TensorView::parse(bytes).map_err(|fault| fault.to_string())?;
    view.verify_full(PayloadHash::of_bytes(b""))
        .map_err(|fault| fault.to_string())
}

fn read_json(bytes: &[u8]) -> Result<(), String> {
    let refusals = [
        SignedBlock::from_canonical(bytes)
            .err()
            .map(|e| e.to_string()),
        GenesisBody::from_payload(bytes)
            .err()
            .map(|e| e.to_string()),
        ManifestBody::from_payload(bytes)
            .err()
            .map(|e| e.to_string()),
        ArchitectureBody::from_payload(bytes)
            .err()
            .map(|e| e.to_string()),
    ];
    refusals
        .into_iter()
        .try_for_each(|refusal| refusal.map_or(Ok(()), Err))
}

fn refused(inputs: Vec<(&str, Vec<u8>)>, read: fn(&[u8]) -> Result<(), String>) -> usize {
    for (what, input) in &inputs {
        let refusal = bounded(input, what, read).expect_err(what);
        assert!(
            !refusal.is_empty() && refusal.len() < 400,
            "{what}: {refusal}"
        );
    }
    inputs.len()
}

fn with(mut bytes: Vec<u8>, at: usize, patch: &[u8]) -> Vec<u8> {
    bytes[at..at + patch.len()].copy_from_slice(patch);
    bytes
}

fn hostile_gguf() -> Vec<(&'static str, Vec<u8>)> {
    let huge = u64::MAX.to_le_bytes();
    let list =
        |code: u32, len: u64| [&code.to_le_bytes()[..], &len.to_le_bytes(), &[0; 64]].concat();
    let lone = |key: &str, code: u32, value: &[u8]| file(&[entry(key, code, value)], &[], &[]);
    let one = |dims: &[u64], code: u32, offset: u64| {
        file(&[], &[tensor("t", dims, code, offset)], &[0; 64])
    };
    vec![
        ("empty", vec![]),
        ("magic only", b"GGUF".to_vec()),
        ("other magic", with(header(0, 0), 0, b"GGML")),
        ("version 2", with(header(0, 0), 4, &[2])),
        ("all ones", [&b"GGUF\x03\0\0\0"[..], &[0xff; 4096]].concat()),
        ("2^64 metadata", header(0, u64::MAX)),
        ("2^64 tensors", header(u64::MAX, 0)),
        (
            "as many tensors as bytes",
            [header(60_000, 0), vec![0; 60_000]].concat(),
        ),
        (
            "too many tensors",
            [header(TENSORS_MAX + 1, 0), vec![0; 1 << 20]].concat(),
        ),
        (
            "too many keys",
            [header(0, METADATA_MAX + 1), vec![0; 1 << 20]].concat(),
        ),
        (
            "key of 2^64 bytes",
            [header(0, 1), huge.to_vec(), vec![0; 64]].concat(),
        ),
        (
            "key that is not UTF-8",
            [header(0, 1), 2_u64.to_le_bytes().to_vec(), vec![0xff; 64]].concat(),
        ),
        (
            "text of 2^63 bytes",
            lone("k", 8, &(1_u64 << 63).to_le_bytes()),
        ),
        ("unknown value type", lone("k", 13, &[0; 8])),
        ("list of 2^64 texts", lone("k", 9, &list(8, u64::MAX))),
        ("list of 2^61 numbers", lone("k", 9, &list(10, 1 << 61))),
        ("list of lists", lone("k", 9, &list(9, 1))),
        ("list of unknown type", lone("k", 9, &list(77, 1))),
        ("truth value 2", lone("k", 7, &[2])),
        (
            "list with truth value 2",
            lone("k", 9, &[&list(7, 3)[..12], &[1, 2, 1]].concat()),
        ),
        (
            "text inside of a list runs out",
            lone("k", 9, &[&texts(&["a"])[..12], &[255; 8]].concat()),
        ),
        (
            "key twice",
            file(&[entry("k", 7, &[1]), entry("k", 7, &[1])], &[], &[]),
        ),
        ("alignment 0", lone("general.alignment", 4, &[0; 4])),
        ("alignment 3", lone("general.alignment", 4, &[3, 0, 0, 0])),
        (
            "alignment 2^63",
            lone("general.alignment", 10, &(1_u64 << 63).to_le_bytes()),
        ),
        (
            "alignment is a text",
            lone("general.alignment", 8, &text("32")),
        ),
        ("no dimensions", one(&[], 0, 0)),
        ("five dimensions", one(&[1; 5], 0, 0)),
        ("2^32 dimensions", with(one(&[1], 0, 0), 24 + 9, &[255; 4])),
        ("dimension 0", one(&[0], 0, 0)),
        ("later dimension 0", one(&[2, 0], 0, 0)),
        ("product overflows", one(&[1 << 32, 1 << 32], 0, 0)),
        ("bytes overflow", one(&[1 << 62], 0, 0)),
        ("product wraps to 1", one(&[1, u64::MAX, u64::MAX], 0, 0)),
        ("unknown tensor type", one(&[32], 12, 0)),
        ("columns that are no whole block", one(&[33], 8, 0)),
        ("data past the end", one(&[17], 0, 0)),
        ("offset past the end", one(&[1], 0, 1 << 40)),
        ("offset overflows", one(&[1], 0, u64::MAX - 31)),
        ("offset off its alignment", one(&[1], 0, 4)),
        (
            "tensors over each other",
            file(
                &[],
                &[tensor("a", &[16], 0, 0), tensor("b", &[1], 0, 32)],
                &[0; 64],
            ),
        ),
        (
            "tensor twice",
            file(
                &[],
                &[tensor("a", &[1], 0, 0), tensor("a", &[1], 0, 32)],
                &[0; 64],
            ),
        ),
        (
            "no data section",
            file(&[], &[tensor("a", &[1], 0, 0)], &[]),
        ),
        ("full table without data", {
            let tensors: Vec<_> = (0..TENSORS_MAX)
                .map(|i| tensor(&i.to_string(), &[1], 0, i * 32))
                .collect();
            file(&[], &tensors, &[])
        }),
        ("full table of one name", {
            let tensors: Vec<_> = (0..TENSORS_MAX)
                .map(|i| tensor("", &[1], 0, i * 32))
                .collect();
            file(&[], &tensors, &vec![0; TENSORS_MAX as usize * 32])
        }),
        (
            "full metadata of one key",
            file(&vec![entry("", 7, &[1]); METADATA_MAX as usize], &[], &[]),
        ),
    ]
}

fn sound_tensorblock() -> Vec<u8> {
    let tensor = blyan_formats::TensorBuf::int8_rows(3, 5, vec![1; 15], vec![1.0; 3]).unwrap();
    let mut file = Vec::new();
    blyan_formats::write_tensorblock(&tensor.as_tensor(), &mut file).unwrap();
    file
}

fn hostile_tensorblocks() -> Vec<(&'static str, Vec<u8>)> {
    let sound = sound_tensorblock;
    let side = |rows: u64, cols: u64| {
        with(
            with(sound(), 16, &rows.to_le_bytes()),
            24,
            &cols.to_le_bytes(),
        )
    };
    vec![
        ("empty", vec![]),
        ("magic only", b"TBLOCK01".to_vec()),
        ("header only", sound()[..128].to_vec()),
        ("cut in the data", sound()[..4100].to_vec()),
        ("one byte more", [sound(), vec![0]].concat()),
        (
            "all ones",
            [&b"TBLOCK01\x01\0\0\0"[..], &[0xff; 65_536]].concat(),
        ),
        ("all zeros", vec![0; 65_536]),
        ("no rows", side(0, 5)),
        ("2^64 rows", side(u64::MAX, 1)),
        ("product overflows", side(1 << 33, 1 << 33)),
        ("product wraps to 15", side(15 << 60, 1 << 60)),
        ("sum overflows", side(1 << 61, 4)),
        ("10 GB", side(100_000, 100_000)),
        ("dtype 0", with(sound(), 12, &[0])),
        ("dtype fp8", with(sound(), 12, &[3])),
        ("quantisation 9", with(sound(), 36, &[9])),
        ("layout column-major", with(sound(), 32, &[1])),
        ("layout 2^32", with(sound(), 32, &[255; 4])),
        ("scales at 2^64", with(sound(), 40, &[255; 8])),
        ("data at 0", with(sound(), 48, &[0; 8])),
        (
            "tree in the header",
            with(sound(), 56, &64_u64.to_le_bytes()),
        ),
        ("reserved byte", with(sound(), 127, &[1])),
        ("padding byte", with(sound(), 4095, &[1])),
        ("another payload", sound()),
    ]
}

fn hostile_json() -> Vec<(&'static str, Vec<u8>)> {
    let long_list = |item: &str, times: usize| format!("[{}]", vec![item; times].join(","));
    let tokens = |list: String| format!("{{\"tokenizer\":{{\"vocab\":{list}}}}}");
    vec![
        ("empty", String::new()),
        ("open bracket", "[".into()),
        ("deep lists", "[".repeat(1 << 16)),
        ("deep objects", "{\"a\":".repeat(1 << 16)),
        (
            "deep but closed",
            format!("{}{}", "[".repeat(40), "]".repeat(40)),
        ),
        ("open text", "\"".repeat(3)),
        ("long open text", format!("\"{}", "x".repeat(1 << 20))),
        ("long key", format!("{{\"{}\":1}}", "k".repeat(1 << 20))),
        (
            "long keys twice",
            format!("{{\"{0}\":1,\"{0}\":1}}", "k".repeat(1 << 19)),
        ),
        (
            "text for a number",
            format!("{{\"version\":\"{}\"}}", "\\n".repeat(1 << 15)),
        ),
        ("many nulls", long_list("null", 1 << 17)),
        ("many empty objects", long_list("{}", 1 << 17)),
        ("long number", "9".repeat(1 << 16)),
        ("float", "{\"version\":1.0}".into()),
        ("exponent", "{\"version\":1e99999}".into()),
        ("not a number", "NaN".into()),
        ("key twice", "{\"version\":1,\"version\":1}".into()),
        ("lone surrogate", "\"\\ud800\"".into()),
        ("space", "{ }".into()),
        ("line end", "{}\n".into()),
        ("unknown field", "{\"unknown\":1}".into()),
        ("many empty tokens", tokens(long_list("\"\"", 350_000))),
        ("many short tokens", tokens(long_list("\"a\"", 250_000))),
        (
            "one long token",
            tokens(long_list(&format!("\"{}\"", "x".repeat(1 << 20)), 1)),
        ),
        (
            "many token types",
            format!(
                "{{\"tokenizer\":{{\"token_types\":{}}}}}",
                long_list("1", 500_000)
            ),
        ),
        (
            "many keys of a genesis",
            format!("{{\"authorised_keys\":{}}}", long_list("\"\"", 5000)),
        ),
        (
            "many parents",
            format!(
                "{{\"header\":{{\"depends_on\":{}}}}}",
                long_list(&format!("\"{:064}\"", 0), 240)
            ),
        ),
    ]
    .into_iter()
    .map(|(what, text)| (what, text.into_bytes()))
    .chain([
        ("not UTF-8", b"\"\xff\"".to_vec()),
        ("random order", b"{\"b\":1,\"a\":1}".to_vec()),
    ])
    .collect()
}

#[test]
fn hostile_inputs_are_refused_within_bounds() {
    let count = refused(hostile_gguf(), read_gguf)
        + refused(hostile_tensorblocks(), read_tensorblock)
        + refused(hostile_json(), read_json);
    assert!(count >= 50, "{count}");
}

#[test]
fn random_bytes_are_refused_within_bounds() {
    let mut runner = TestRunner::new(Config::with_cases(64));
    let input = (
        prop::collection::vec(any::<u8>(), 0..=65_536),
        prop::sample::select(vec!["", "GGUF", "TBLOCK01", "{\""]),
    );
    let outcome = runner.run(&input, |(mut bytes, start)| {
        let start = &start.as_bytes()[..start.len().min(bytes.len())];
        bytes[..start.len()].copy_from_slice(start);
        for read in [read_gguf, read_tensorblock, read_json] {
            prop_assert!(bounded(&bytes, "random bytes", read).is_err());
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn truncations_are_refused_within_bounds() {
    let gguf = file(
        &[entry("k", 9, &texts(&["a", "b"]))],
        &[tensor("t", &[16], 0, 0)],
        &[0; 64],
    );
    assert!(read_gguf(&gguf).is_ok());
    for len in 0..gguf.len() {
        assert!(
            bounded(&gguf[..len], "truncated GGUF", read_gguf).is_err(),
            "{len}"
        );
    }
    let block = sound_tensorblock();
    for len in (0..block.len()).step_by(7) {
        assert!(
            bounded(&block[..len], "truncated TensorBlock", read_tensorblock).is_err(),
            "{len}"
        );
    }
    let json = br#"{"a":[1,-2,"\u00e9\n"],"b":{"c":null,"d":true}}"#;
    assert!(from_canonical::<serde_json::Value>(json).is_ok());
    for len in 0..json.len() {
        let result = bounded(
            &json[..len],
            "truncated JSON",
            from_canonical::<serde_json::Value>,
        );
        assert!(
            matches!(result, Err(CanonicalError::Syntax { .. })),
            "{len}"
        );
    }
}

/// Sound files at the reader's own limits stay within the bound as well.
#[test]
fn the_largest_tables_are_read_within_bounds() {
    let entries: Vec<_> = (0..METADATA_MAX)
        .map(|i| entry(&i.to_string(), 7, &[1]))
        .collect();
    let tensors: Vec<_> = (0..TENSORS_MAX)
        .map(|i| tensor(&i.to_string(), &[1], 0, i * 32))
        .collect();
    let gguf = file(&entries, &tensors, &vec![0; TENSORS_MAX as usize * 32]);
    assert_eq!(bounded(&gguf, "largest tables", read_gguf), Ok(()));
}
