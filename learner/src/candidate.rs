//! Experts that are not on the chain yet, where the engine looks for those that are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use blyan_formats::tensorblock::TensorBuf;
use blyan_formats::{PayloadHash, Tensor, TensorName};
use blyan_protocol::{ExpertTable, Lease, LeaseError, LeasedExpert, WeightForm};
use parking_lot::RwLock;

use crate::LearnError;

/// A table that hands out candidates in place of the experts of their names, and all others from `base`. What an engine
/// computes over it is what it will compute once the candidates are adopted, quantisation included.
pub struct CandidateTable {
    base: Arc<dyn ExpertTable>,
    held: RwLock<BTreeMap<TensorName, [Arc<Held>; 2]>>,
}

struct Held(TensorBuf);

impl LeasedExpert for Held {
    fn weights(&self) -> Tensor<'_> {
        self.0.as_tensor()
    }

    fn intact(&self) -> bool {
        true
    }
}

impl CandidateTable {
    /// No candidates yet.
    #[must_use]
    pub fn new(base: Arc<dyn ExpertTable>) -> Self {
        Self {
            base,
            held: RwLock::default(),
        }
    }

    /// From now on `name` is `candidate`, `[3F, H]` as it will be stored.
    ///
    /// # Errors
    /// [`LearnError::Tensor`] if it cannot be de-quantised; the table is as before.
    pub fn put(&self, name: TensorName, candidate: TensorBuf) -> Result<(), LearnError> {
        let tensor = candidate.as_tensor();
        let (rows, cols) = (tensor.rows(), tensor.cols());
        let mut values = vec![0.0; rows * cols];
        tensor.dequantise_into(&mut values)?;
        let fp32 = TensorBuf::fp32(rows, cols, values)?;
        let forms = [fp32, candidate].map(|form| Arc::new(Held(form)));
        self.held.write().insert(name, forms);
        Ok(())
    }

    /// From now on `name` is the expert of `base` again.
    pub fn withdraw(&self, name: &TensorName) {
        self.held.write().remove(name);
    }
}

impl ExpertTable for CandidateTable {
    fn lease(
        &self,
        name: &TensorName,
        payload: &PayloadHash,
        form: WeightForm,
        deadline: Instant,
    ) -> Result<(Lease, bool), LeaseError> {
        let held = self.held.read().get(name).cloned();
        let Some([fp32, stored]) = held else {
            return self.base.lease(name, payload, form, deadline);
        };
        let lease = match form {
            WeightForm::Fp32 => fp32,
            WeightForm::Stored => stored,
        };
        Ok((lease, false))
    }

    fn corruption(&self, payload: &PayloadHash) -> Option<String> {
        self.base.corruption(payload)
    }

    fn corruption_epoch(&self) -> u64 {
        self.base.corruption_epoch()
    }

    fn report_damage(&self, name: &TensorName, payload: &PayloadHash, fault: &str) {
        self.base.report_damage(name, payload, fault);
    }
}

/// An expert's weights in fp32, `[3F, H]`, from whatever form it is stored in.
///
/// # Errors
/// [`LearnError::Lease`], [`LearnError::Tensor`].
pub fn weights_of(
    table: &dyn ExpertTable,
    name: &TensorName,
    payload: &PayloadHash,
    form: WeightForm,
    deadline: Instant,
) -> Result<Vec<f32>, LearnError> {
    let (lease, _) = table.lease(name, payload, form, deadline)?;
    let tensor = lease.weights();
    let mut values = vec![0.0; tensor.rows() * tensor.cols()];
    tensor.dequantise_into(&mut values)?;
    if !lease.intact() {
        let why = "its file was damaged while it was mapped".to_owned();
        return Err(LeaseError::Unavailable { name: *name, why }.into());
    }
    Ok(values)
}
