//! How fast memory is read: the bound of decode, which reads every weight once a token.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Args, value_parser};
use serde::Serialize;

/// `blyan bench bandwidth`
#[derive(Debug, Args)]
pub struct BandwidthArgs {
    /// Threads that read, each a part of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u16).range(1..=256))]
    threads: u16,
    /// Bytes read in a pass by all threads; more than all caches hold, or as many as the weights have
    #[arg(long, value_name = "N", default_value_t = 1 << 30, value_parser = value_parser!(u64).range(1 << 20..=1 << 36))]
    bytes: u64,
    /// Passes, after one that is not counted
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = value_parser!(u16).range(1..))]
    passes: u16,
    /// The result as JSON
    #[arg(long)]
    json: bool,
}

/// Bytes per second of a pass.
#[derive(Serialize)]
struct Bandwidth {
    median: f64,
    slowest: f64,
    fastest: f64,
    threads: u16,
    bytes: u64,
    passes: u16,
}

pub fn run(args: &BandwidthArgs) -> Result<()> {
    let words = usize::try_from(args.bytes / 8 / u64::from(args.threads))?;
    let read = f64::from(args.threads) * (words * 8) as f64;
    let times = times(args.threads.into(), words, args.passes)?;
    let mut rates: Vec<_> = times.iter().map(|time| read / time.as_secs_f64()).collect();
    rates.sort_by(f64::total_cmp);
    let bandwidth = Bandwidth {
        median: super::median(&rates),
        slowest: rates[0],
        fastest: rates[rates.len() - 1],
        threads: args.threads,
        bytes: args.bytes,
        passes: args.passes,
    };
    super::print(args.json, &bandwidth)
}

/// How long each pass took, until the last thread was through.
fn times(threads: usize, words: usize, passes: u16) -> Result<Vec<Duration>> {
    let barrier = Barrier::new(threads);
    let read = || read_passes(&barrier, words, passes);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..threads).map(|_| scope.spawn(read)).collect();
        let times = readers.into_iter().map(|reader| reader.join().ok());
        times.last().flatten().context("a reader panicked")
    })
}

/// Reads a buffer of its own in step with the others; the first pass is not counted.
fn read_passes(barrier: &Barrier, words: usize, passes: u16) -> Vec<Duration> {
    // Not zero: the system may map one page for all zeros.
    let buffer = vec![1_u64; words];
    let pass = |_| {
        barrier.wait();
        let began = Instant::now();
        black_box(sum(black_box(&buffer)));
        barrier.wait();
        began.elapsed()
    };
    (0..=passes).map(pass).skip(1).collect()
}

/// The wrapping sum in the widest registers there are: narrow ones do not keep up with memory.
fn sum(words: &[u64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the instructions.
            return unsafe { sum_avx512(words) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has the instructions.
            return unsafe { sum_avx2(words) };
        }
    }
    sum_lanes(words)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn sum_avx512(words: &[u64]) -> u64 {
    sum_lanes(words)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2(words: &[u64]) -> u64 {
    sum_lanes(words)
}

/// In sums that do not wait for each other.
#[inline(always)]
fn sum_lanes(words: &[u64]) -> u64 {
    const LANES: usize = 32;
    let mut sums = [0_u64; LANES];
    let (chunks, rest) = words.as_chunks::<LANES>();
    for chunk in chunks {
        for (sum, word) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(*word);
        }
    }
    let all = sums.iter().chain(rest);
    all.fold(0, |total, word| total.wrapping_add(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read() {
        for len in [0_u64, 1, 31, 32, 33, 1000] {
            let words: Vec<u64> = (0..len)
                .map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15))
                .collect();
            let expected = words
                .iter()
                .fold(0_u64, |sum, word| sum.wrapping_add(*word));
            assert_eq!(sum(&words), expected);
            assert_eq!(sum_lanes(&words), expected);
        }
    }

    #[test]
    fn each_pass_is_timed_whatever_the_number_of_threads() {
        for threads in [1, 3] {
            assert_eq!(times(threads, 4096, 5).unwrap().len(), 5);
        }
    }
}
