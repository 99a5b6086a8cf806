//! Full verification of a store's payload files, as `blyan verify` does it, beside what bounds it: SHA-256 of as many bytes
//! on all cores, and reading the same files from the disk. Pages are dropped before every reading. Under `cargo test`, which
//! does not say `--bench`, one round over small files.

#[path = "../tests/chain/support.rs"]
#[allow(dead_code, reason = "shared with the tests of the chain")]
mod support;

use std::error::Error;
use std::fs::File;
use std::hint::black_box;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use blyan_chain::compose::{Weights, weights_block};
use blyan_chain::{DataDir, RocksStore, Store, VerifyOptions, verify};
use blyan_formats::bodies::Payload as _;
use blyan_formats::hash::sha256;
use blyan_formats::{ArchitectureBody, BlockType, TensorBuf, TensorName, write_tensorblock};

const ROUNDS: usize = 10;
const EXPERTS: u16 = 32;

fn main() -> Result<(), Box<dyn Error>> {
    let measured = std::env::args().any(|arg| arg == "--bench");
    let (rounds, hidden) = if measured { (ROUNDS, 2048) } else { (1, 256) };
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let store = fill(&DataDir::new(dir.path()), hidden)?;
    let files: Vec<_> = std::fs::read_dir(DataDir::new(dir.path()).payloads())?
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()?;
    let bytes: u64 = files
        .iter()
        .map(|file| file.metadata().map(|meta| meta.len()))
        .sum::<Result<_, _>>()?;
    let threads = std::thread::available_parallelism()?.get();
    let at_a_time = VerifyOptions::default().threads;
    let rate = |began: Instant| bytes as f64 / began.elapsed().as_secs_f64() / 1e9;
    let (mut hashed, mut read, mut verified, mut warm, mut ratios) =
        (vec![], vec![], vec![], vec![], vec![]);
    for _ in 0..rounds {
        let began = Instant::now();
        hash_as_much(bytes, threads);
        hashed.push(rate(began));
        forget_pages(&files)?;
        let began = Instant::now();
        read_all(&files, at_a_time)?;
        read.push(rate(began));
        forget_pages(&files)?;
        verified.push(verify_all(&store, at_a_time, bytes)?);
        warm.push(verify_all(&store, at_a_time, bytes)?);
        let bound = hashed[hashed.len() - 1].min(read[read.len() - 1]);
        ratios.push(verified[verified.len() - 1] / bound);
    }
    println!(
        "{} files, {:.0} MB, {threads} threads that hash, {at_a_time} files read or verified at a time, {rounds} rounds",
        files.len(),
        bytes as f64 / 1e6
    );
    for (what, unit, values) in [
        ("SHA-256 of as much, in memory", "GB/s", hashed),
        ("reading the files from the disk", "GB/s", read),
        ("full verification from the disk", "GB/s", verified),
        ("full verification from the page cache", "GB/s", warm),
        (
            "verification from the disk / the lesser of the first two",
            "",
            ratios,
        ),
    ] {
        tell(what, unit, values);
    }
    Ok(())
}

fn tell(what: &str, unit: &str, mut values: Vec<f64>) {
    values.sort_by(f64::total_cmp);
    let middle = f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2]);
    println!(
        "{what:<60} {middle:>7.3} {unit:<4} ({:.3} to {:.3})",
        values[0],
        values[values.len() - 1]
    );
}

/// One layer of experts of `3 x neurons x hidden` int8 values: 12 MB each where hidden is 2048.
fn fill(layout: &DataDir, hidden: u32) -> Result<Arc<RocksStore>, Box<dyn Error>> {
    let key = support::key(1);
    let store = Arc::new(RocksStore::open(layout.clone())?);
    let mut chain = support::open_chain(Arc::clone(&store), &key)?;
    let mut architecture = support::architecture();
    architecture.layers = 1;
    architecture.hidden = hidden;
    architecture.head_dim = u16::try_from(hidden / 2)?.into();
    architecture.ffn = hidden * u32::from(EXPERTS);
    architecture.experts.per_layer = EXPERTS;
    architecture.experts.neurons = hidden;
    let body = architecture.to_payload()?;
    let meta_ref = chain.append_meta(BlockType::Architecture, body, 1, &key, 1)?;
    let mut blocks = Vec::new();
    for expert in 0..EXPERTS {
        let name = TensorName::expert_of(0, expert);
        let bytes = payload(&architecture, name)?;
        let mut file = Vec::new();
        let written = write_tensorblock(&bytes.as_tensor(), &mut file)?;
        store.payloads().put(written.payload_hash, &file)?;
        let weights = Weights {
            name,
            payload: written.payload_hash,
            payload_len: file.len() as u64,
            meta_ref,
            parents: Vec::new(),
            supersedes: Vec::new(),
        };
        blocks.push(weights_block(chain.index(), weights, 1, &key)?);
    }
    chain.append_all(&blocks, support::acceptance(&key))?;
    Ok(store)
}

fn payload(architecture: &ArchitectureBody, name: TensorName) -> Result<TensorBuf, Box<dyn Error>> {
    let (rows, cols) = architecture
        .tensor_shape(&name)
        .ok_or("the architecture has no such tensor")?;
    let (rows, cols) = (usize::try_from(rows)?, usize::try_from(cols)?);
    let salt = name.expert().map_or(1, |expert| u32::from(expert) + 1);
    let values: Vec<_> = (0..rows * cols)
        .map(|at| (at as u32).wrapping_mul(salt) as f32)
        .collect();
    Ok(TensorBuf::quantise_int8_rows(rows, cols, &values)?)
}

fn verify_all(store: &Arc<RocksStore>, threads: usize, bytes: u64) -> Result<f64, Box<dyn Error>> {
    let began = Instant::now();
    let options = VerifyOptions {
        threads,
        ..VerifyOptions::default()
    };
    let report = verify(&**store, options)?;
    let took = began.elapsed();
    assert_eq!(report.payload_bytes, bytes);
    Ok(bytes as f64 / took.as_secs_f64() / 1e9)
}

fn hash_as_much(bytes: u64, threads: usize) {
    let piece = vec![7_u8; 1 << 20];
    let pieces = bytes as usize / piece.len() / threads;
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                (0..pieces).fold(0, |seen, _| seen ^ black_box(sha256(black_box(&piece)))[0])
            });
        }
    });
}

fn read_all(files: &[PathBuf], threads: usize) -> std::io::Result<()> {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let read = || -> std::io::Result<()> {
            let mut buffer = vec![0; 1 << 20];
            while let Some(path) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                let mut file = File::open(path)?;
                while file.read(&mut buffer)? > 0 {}
            }
            Ok(())
        };
        let started: Vec<_> = (0..threads).map(|_| scope.spawn(read)).collect();
        started
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or(Ok(())))
    })
}

fn forget_pages(files: &[PathBuf]) -> std::io::Result<()> {
    for path in files {
        let file = File::open(path)?;
        file.sync_all()?;
        // SAFETY: the descriptor is open for as long as `file` lives; the call changes nothing but the page cache.
        let failed =
            unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        if failed != 0 {
            return Err(std::io::Error::from_raw_os_error(failed));
        }
    }
    Ok(())
}
