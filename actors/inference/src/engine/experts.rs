//! The feed-forward part as a sum of leased experts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use blyan_formats::{PayloadHash, TensorName};
use blyan_protocol::{ExpertTable, LeaseError, ModelEntry, WeightForm};
use parking_lot::Mutex;

use super::EngineError;
use super::choice::choose;
use super::ffn::{FfnCall, FfnCompute, RowSpan, RunState};
use super::kernel::{ExpertKernel, ExpertSize, LayerInput};
use crate::graph::ModelShape;
use crate::step::StepError;

/// Rows of one expert that are computed at one time. It does not depend on the number of threads, so neither does
/// what comes out.
const ITEM_ROWS: usize = 64;
/// Rows whose contributions are held before they are added up.
const WAVE_ROWS: usize = 512;
/// Maps of one expert that may turn out damaged, one after the other, before the step gives up.
const DAMAGED_LEASES_MAX: usize = 3;
const DAMAGED: &str = "the file was damaged while it was mapped";

/// Computes feed-forward parts from the experts of one model.
pub struct ExpertFfn {
    shape: ModelShape,
    /// Layer by layer.
    experts: Vec<(TensorName, PayloadHash)>,
    table: Arc<dyn ExpertTable>,
    kernel: Arc<dyn ExpertKernel>,
    health: Mutex<Option<Arc<Health>>>,
}

/// Which experts were corrupt at one epoch of the table.
struct Health {
    epoch: u64,
    /// Like [`ExpertFfn::experts`].
    corrupt: Vec<bool>,
}

/// Some tokens of one expert.
struct Item<'a> {
    expert: usize,
    /// Ascending.
    tokens: &'a [u32],
}

impl ExpertFfn {
    /// # Errors
    /// [`EngineError::Weight`] if `entries`, a manifest's, lack an expert.
    pub fn new(
        shape: ModelShape,
        entries: &BTreeMap<TensorName, ModelEntry>,
        table: Arc<dyn ExpertTable>,
        kernel: Arc<dyn ExpertKernel>,
    ) -> Result<Self, EngineError> {
        let names = (0..shape.layers)
            .flat_map(|layer| (0..shape.experts).map(move |expert| (layer, expert)));
        let names = names.map(|(layer, expert)| TensorName::expert_of(layer as u16, expert as u16));
        let experts = names.map(|name| match entries.get(&name) {
            Some(entry) => Ok((name, entry.payload)),
            None => Err(EngineError::Weight {
                name,
                why: "the manifest does not name it".to_owned(),
            }),
        });
        Ok(Self {
            shape,
            experts: experts.collect::<Result<_, _>>()?,
            table,
            kernel,
            health: Mutex::default(),
        })
    }

    /// Layers, and experts of each.
    pub(super) fn extent(&self) -> (usize, usize) {
        (self.shape.layers, self.shape.experts)
    }

    /// In which form the kernel reads weights.
    pub(super) fn form(&self) -> WeightForm {
        self.kernel.form()
    }

    /// For each expert the tokens of the call that it computes.
    ///
    /// # Errors
    /// [`StepError::Expert`] if too few experts are healthy.
    pub(super) fn chosen(&self, call: &FfnCall<'_>) -> Result<Vec<Vec<u32>>, StepError> {
        self.choose(call, &self.health())
    }

    fn expert(&self, layer: usize, expert: usize) -> &(TensorName, PayloadHash) {
        &self.experts[layer * self.shape.experts + expert]
    }

    fn health(&self) -> Arc<Health> {
        let mut known = self.health.lock();
        // Read before the experts are asked: a change in between is then seen next time.
        let epoch = self.table.corruption_epoch();
        if let Some(health) = known.as_ref().filter(|health| health.epoch == epoch) {
            return Arc::clone(health);
        }
        let corrupt = self
            .experts
            .iter()
            .map(|(_, payload)| self.table.corruption(payload).is_some())
            .collect();
        Arc::clone(known.insert(Arc::new(Health { epoch, corrupt })))
    }

    fn choose(&self, call: &FfnCall<'_>, health: &Health) -> Result<Vec<Vec<u32>>, StepError> {
        let corrupt = &health.corrupt[call.layer * self.shape.experts..][..self.shape.experts];
        let missing = |expert| {
            let (name, payload) = *self.expert(call.layer, expert);
            let fault = self.table.corruption(&payload).unwrap_or_default();
            StepError::Expert(LeaseError::Corrupt {
                name,
                payload,
                fault,
            })
        };
        choose(&call.run.rows, call.scores, self.shape.always_on, corrupt).map_err(missing)
    }

    fn add_up(&self, call: &mut FfnCall<'_>, tokens_of: &[Vec<u32>]) -> Result<(), StepError> {
        call.output.fill(0.0);
        let items = tokens_of.iter().enumerate().flat_map(|(expert, tokens)| {
            tokens
                .chunks(ITEM_ROWS)
                .map(move |tokens| Item { expert, tokens })
        });
        let items: Vec<_> = items.collect();
        let input = LayerInput::new(call.input, call.hidden);
        waves(&items).try_for_each(|wave| self.add_wave(call, &input, wave))
    }

    /// Workers take the next item each; the sum is made in the items' order, whoever computed them.
    fn add_wave(
        &self,
        call: &mut FfnCall<'_>,
        input: &LayerInput<'_>,
        items: &[Item<'_>],
    ) -> Result<(), StepError> {
        let (layer, run, hidden) = (call.layer, call.run, call.hidden);
        let rows: usize = items.iter().map(|item| item.tokens.len()).sum();
        let mut shares = vec![0.0; rows * hidden];
        let mut rest = shares.as_mut_slice();
        let places = items.iter().map(|item| {
            let (place, others) =
                std::mem::take(&mut rest).split_at_mut(item.tokens.len() * hidden);
            rest = others;
            Mutex::new(place)
        });
        let places: Vec<_> = places.collect();
        let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
        let work = |_| {
            while let Some((item, place)) = take(&next, items, &places) {
                if let Err(fault) = self.share(layer, run, input, item, &mut place.lock()) {
                    next.store(items.len(), Ordering::Relaxed);
                    failed.lock().get_or_insert(fault);
                }
            }
        };
        match call.workers.count().min(items.len()) {
            0 | 1 => work(0),
            workers => call.workers.run(workers, &work),
        }
        if let Some(fault) = failed.into_inner() {
            return Err(fault);
        }
        let mut shares = shares.as_slice();
        for item in items {
            let (share, others) = shares.split_at(item.tokens.len() * hidden);
            shares = others;
            add(call, item, share);
        }
        Ok(())
    }

    /// A damaged derivation is made again at the next lease; a damaged payload is refused there.
    fn share(
        &self,
        layer: usize,
        run: &RunState,
        input: &LayerInput<'_>,
        item: &Item<'_>,
        output: &mut [f32],
    ) -> Result<(), StepError> {
        for _ in 0..DAMAGED_LEASES_MAX {
            if self.with_lease(layer, run, input, item, output)? {
                return Ok(());
            }
        }
        let (name, payload) = *self.expert(layer, item.expert);
        Err(LeaseError::Corrupt {
            name,
            payload,
            fault: DAMAGED.to_owned(),
        }
        .into())
    }

    /// False if the map was damaged meanwhile, which is reported.
    fn with_lease(
        &self,
        layer: usize,
        run: &RunState,
        input: &LayerInput<'_>,
        item: &Item<'_>,
        output: &mut [f32],
    ) -> Result<bool, StepError> {
        if run.is_terminated() {
            return Err(StepError::Terminated);
        }
        let (name, payload) = self.expert(layer, item.expert);
        let (lease, waited) = self
            .table
            .lease(name, payload, self.kernel.form(), run.deadline)?;
        if waited {
            run.count_load();
        }
        let ModelShape {
            hidden, neurons, ..
        } = self.shape;
        let size = ExpertSize { hidden, neurons };
        let computed = self
            .kernel
            .compute(lease.as_ref(), size, input, item.tokens, output);
        if !lease.intact() {
            self.table.report_damage(name, payload, DAMAGED);
            return Ok(false);
        }
        computed.map_err(|why| LeaseError::Unavailable { name: *name, why })?;
        Ok(true)
    }
}

impl FfnCompute for ExpertFfn {
    fn compute(&self, call: &mut FfnCall<'_>) -> Result<(), StepError> {
        // An expert found corrupt only now may be one that the rows can do without: choose again, at most once each.
        for _ in 0..=self.shape.experts {
            let health = self.health();
            let tokens_of = self.choose(call, &health)?;
            match self.add_up(call, &tokens_of) {
                Err(StepError::Expert(LeaseError::Corrupt { .. }))
                    if self.health().epoch != health.epoch => {}
                Err(fault) => return Err(fault),
                Ok(()) => {
                    count(call, &tokens_of);
                    return Ok(());
                }
            }
        }
        Err(StepError::Runtime(
            "experts become corrupt faster than they can be chosen".to_owned(),
        ))
    }
}

fn take<'a, I, D>(next: &AtomicUsize, items: &'a [I], done: &'a [D]) -> Option<(&'a I, &'a D)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    Some((items.get(index)?, done.get(index)?))
}

/// Groups items so that each group has at most [`WAVE_ROWS`] rows.
fn waves<'a>(mut items: &'a [Item<'a>]) -> impl Iterator<Item = &'a [Item<'a>]> {
    std::iter::from_fn(move || {
        let mut rows = 0;
        let fits = |item: &&Item<'_>| {
            rows += item.tokens.len();
            rows <= WAVE_ROWS
        };
        let (wave, rest) = items.split_at(items.iter().take_while(fits).count());
        items = rest;
        (!wave.is_empty()).then_some(wave)
    })
}

fn add(call: &mut FfnCall<'_>, item: &Item<'_>, contribution: &[f32]) {
    for (token, contribution) in item
        .tokens
        .iter()
        .zip(contribution.chunks_exact(call.hidden))
    {
        let sums = &mut call.output[*token as usize * call.hidden..][..call.hidden];
        sums.iter_mut()
            .zip(contribution)
            .for_each(|(sum, addition)| *sum += addition);
    }
}

fn count(call: &FfnCall<'_>, tokens_of: &[Vec<u32>]) {
    for (row, RowSpan { tokens: span, .. }) in call.run.rows.iter().enumerate() {
        for (expert, tokens) in tokens_of.iter().enumerate() {
            let before = |end: usize| tokens.partition_point(|token| (*token as usize) < end);
            call.run.count(
                row,
                call.layer,
                expert,
                before(span.end) - before(span.start),
            );
        }
    }
}
