//! Our operators for ONNX Runtime: each reads its inputs, calls one function of ours and lets no panic out.

mod layer;
mod matrix;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use blyan_supervisors::Probe;
use ort::operator::{ComputeContext, OperatorDomain};
use parking_lot::Mutex;

use super::attention::Attention;
use super::ffn::{FfnCompute, Workers};
use super::matrices::Matrices;
use super::runs::Runs;
use crate::graph::{BLYAN, ModelShape};

/// What every call of the operators shares.
pub struct Shared {
    pub runs: Runs,
    pub compute: Arc<dyn FfnCompute>,
    pub matrices: Matrices,
    pub attention: Attention,
    pub shape: ModelShape,
    pub probe: Arc<dyn Probe>,
    pub threads: usize,
}

/// A domain that holds the operators.
#[derive(Clone)]
pub struct Domain(Arc<OperatorDomain>);

// SAFETY: nothing in a domain changes after `new`; ONNX Runtime only reads it, and the operators in it are
// `Send + Sync` as the trait `Operator` demands.
unsafe impl Send for Domain {}
// SAFETY: see above.
unsafe impl Sync for Domain {}

impl Domain {
    #[expect(
        clippy::arc_with_non_send_sync,
        reason = "sessions ask for an `Arc`; `Domain` is what threads share"
    )]
    pub fn new(shared: Arc<Shared>) -> ort::Result<Self> {
        OperatorDomain::new(BLYAN)?
            .add(matrix::ProductOperator(Arc::clone(&shared)))?
            .add(matrix::EmbedOperator(Arc::clone(&shared)))?
            .add(layer::AttentionOperator(Arc::clone(&shared)))?
            .add(layer::FfnOperator(shared))
            .map(|domain| Self(Arc::new(domain)))
    }

    pub fn get(&self) -> Arc<OperatorDomain> {
        Arc::clone(&self.0)
    }
}

/// The session's own threads.
struct Pool<'a> {
    context: &'a ComputeContext,
    threads: usize,
}

impl Workers for Pool<'_> {
    fn count(&self) -> usize {
        self.threads
    }

    fn run(&self, count: usize, work: &(dyn Fn(usize) + Sync)) {
        let panicked = Mutex::new(None);
        let guarded = |index| {
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| work(index))) {
                let text = panic_text(payload);
                panicked.lock().get_or_insert(text);
            }
        };
        if let Err(why) = self.context.par_for(count, count, guarded) {
            panic!("ONNX Runtime's threads: {why}");
        }
        if let Some(text) = panicked.into_inner() {
            resume_unwind(Box::new(text));
        }
    }
}

/// A payload of an unknown type is leaked: its destructor could panic again.
fn panic_text(payload: Box<dyn Any + Send>) -> String {
    let payload = match payload.downcast::<String>() {
        Ok(text) => return *text,
        Err(payload) => payload,
    };
    match payload.downcast::<&'static str>() {
        Ok(text) => (*text).to_owned(),
        Err(payload) => {
            std::mem::forget(payload);
            "a panic without a text".to_owned()
        }
    }
}
