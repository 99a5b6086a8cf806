use std::sync::Arc;
use std::time::Instant;

use blyan_formats::tensorblock::TensorBuf;
use blyan_formats::{PayloadHash, Tensor, TensorName};
use blyan_learner::{CandidateTable, weights_of};
use blyan_protocol::{ExpertTable, Lease, LeaseError, LeasedExpert, WeightForm};

const NAME: TensorName = TensorName::expert_of(0, 3);
const OTHER: TensorName = TensorName::expert_of(0, 4);

struct Chain;

struct Stored(TensorBuf);

impl LeasedExpert for Stored {
    fn weights(&self) -> Tensor<'_> {
        self.0.as_tensor()
    }

    fn intact(&self) -> bool {
        true
    }
}

/// Every expert on the chain is of ones.
impl ExpertTable for Chain {
    fn lease(
        &self,
        _: &TensorName,
        _: &PayloadHash,
        _: WeightForm,
        _: Instant,
    ) -> Result<(Lease, bool), LeaseError> {
        let ones = TensorBuf::fp32(3, 32, vec![1.0; 96]).unwrap();
        Ok((Arc::new(Stored(ones)), true))
    }

    fn corruption(&self, _: &PayloadHash) -> Option<String> {
        None
    }

    fn corruption_epoch(&self) -> u64 {
        7
    }

    fn report_damage(&self, _: &TensorName, _: &PayloadHash, _: &str) {}
}

fn found(table: &CandidateTable, name: &TensorName, form: WeightForm) -> Vec<f32> {
    let payload = PayloadHash::of_bytes(b"any");
    weights_of(table, name, &payload, form, Instant::now()).unwrap()
}

#[test]
fn a_candidate_takes_the_place_of_its_expert_and_of_no_other() {
    let table = CandidateTable::new(Arc::new(Chain));
    let values: Vec<f32> = (0..96).map(|at| (at as f32).sin()).collect();
    let candidate = TensorBuf::quantise_int8_blocks(3, 32, &values).unwrap();
    let mut stored = vec![0.0; 96];
    candidate.as_tensor().dequantise_into(&mut stored).unwrap();
    table.put(NAME, candidate).unwrap();
    for form in [WeightForm::Fp32, WeightForm::Stored] {
        assert_eq!(found(&table, &NAME, form), stored);
        assert_eq!(found(&table, &OTHER, form), [1.0; 96]);
        let payload = PayloadHash::of_bytes(b"any");
        let (lease, _) = table.lease(&NAME, &payload, form, Instant::now()).unwrap();
        assert_eq!(
            lease.weights().as_fp32().is_some(),
            form == WeightForm::Fp32
        );
    }
    table.withdraw(&NAME);
    assert_eq!(found(&table, &NAME, WeightForm::Stored), [1.0; 96]);
    assert_eq!(table.corruption_epoch(), 7);
}
