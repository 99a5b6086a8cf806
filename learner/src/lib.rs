#![doc = include_str!("../README.md")]

mod candidate;
mod course;
mod error;
mod lesson;
mod reading;
mod verdict;

pub use candidate::{CandidateTable, weights_of};
pub use course::{Course, learn};
pub use error::LearnError;
pub use lesson::Lesson;
pub use reading::read;
pub use verdict::{Comparison, Refusal, Rule};
