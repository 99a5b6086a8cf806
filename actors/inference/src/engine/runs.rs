//! What the operator finds by the id that stands in its run's inputs.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::Mutex;

use super::attention::RowMemory;
use super::ffn::RunState;
use crate::step::StepError;

/// A run under way and the fault that the operator left.
pub struct RunContext {
    pub state: RunState,
    /// Empty where the graph itself reads and writes the rows' memory.
    pub memory: Mutex<Vec<RowMemory>>,
    fault: Mutex<Option<StepError>>,
}

impl RunContext {
    /// Keeps the first fault.
    pub fn fail(&self, fault: StepError) {
        self.fault.lock().get_or_insert(fault);
    }

    pub fn take_fault(&self) -> Option<StepError> {
        self.fault.lock().take()
    }
}

/// The runs under way. A clone is the same set.
#[derive(Clone, Default)]
pub struct Runs(Arc<Inner>);

#[derive(Default)]
struct Inner {
    next_id: AtomicI64,
    by_id: Mutex<HashMap<i64, Arc<RunContext>>>,
}

impl Runs {
    /// Makes the run known until the guard is dropped.
    pub fn enter(&self, state: RunState, memory: Vec<RowMemory>) -> RunGuard<'_> {
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let context = Arc::new(RunContext {
            state,
            memory: Mutex::new(memory),
            fault: Mutex::new(None),
        });
        self.0.by_id.lock().insert(id, Arc::clone(&context));
        RunGuard {
            runs: self,
            id,
            context,
        }
    }

    pub fn find(&self, id: i64) -> Option<Arc<RunContext>> {
        self.0.by_id.lock().get(&id).cloned()
    }
}

pub struct RunGuard<'a> {
    runs: &'a Runs,
    pub id: i64,
    pub context: Arc<RunContext>,
}

impl Drop for RunGuard<'_> {
    fn drop(&mut self) {
        self.runs.0.by_id.lock().remove(&self.id);
        // Nobody may reach the rows' memory through a clone of the context that outlives the run.
        self.context.memory.lock().clear();
    }
}
