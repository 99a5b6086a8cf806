//! The feed-forward part as a sum of leased experts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use blyan_formats::{PayloadHash, TensorName};
use blyan_protocol::{ExpertTable, LeaseError, ModelEntry};
use parking_lot::Mutex;

use super::EngineError;
use super::choice::choose;
use super::ffn::{FfnCall, FfnCompute, RowSpan, RunState};
use super::kernel::{ExpertKernel, ExpertSize};
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
        waves(&items).try_for_each(|wave| self.add_wave(call, wave))
    }

    /// Workers take the next item each; the sum is made in the items' order, whoever computed them.
    fn add_wave(&self, call: &mut FfnCall<'_>, items: &[Item<'_>]) -> Result<(), StepError> {
        let (layer, run, input) = (call.layer, call.run, call.input);
        let done: Vec<OnceLock<Result<Vec<f32>, StepError>>> =
            items.iter().map(|_| OnceLock::new()).collect();
        let next = AtomicUsize::new(0);
        let work = |_| {
            while let Some((item, done)) = take(&next, items, &done) {
                let result = done.get_or_init(|| self.contribution(layer, run, input, item));
                if result.is_err() {
                    next.store(items.len(), Ordering::Relaxed);
                }
            }
        };
        match call.workers.count().min(items.len()) {
            0 | 1 => work(0),
            workers => call.workers.run(workers, &work),
        }
        let results = done.into_iter().filter_map(OnceLock::into_inner);
        items.iter().zip(results).try_for_each(|(item, result)| {
            add(call, item, &result?);
            Ok(())
        })
    }

    /// A damaged derivation is made again at the next lease; a damaged payload is refused there.
    fn contribution(
        &self,
        layer: usize,
        run: &RunState,
        input: &[f32],
        item: &Item<'_>,
    ) -> Result<Vec<f32>, StepError> {
        for _ in 0..DAMAGED_LEASES_MAX {
            if let Some(output) = self.with_lease(layer, run, input, item)? {
                return Ok(output);
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

    /// `None` if the map was damaged meanwhile, which is reported.
    fn with_lease(
        &self,
        layer: usize,
        run: &RunState,
        input: &[f32],
        item: &Item<'_>,
    ) -> Result<Option<Vec<f32>>, StepError> {
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
        let mut gathered = Vec::new();
        let input = item.rows(input, hidden, &mut gathered);
        let mut output = vec![0.0; input.len()];
        let computed = self.kernel.compute(
            lease.as_ref(),
            ExpertSize { hidden, neurons },
            input,
            &mut output,
        );
        if !lease.intact() {
            self.table.report_damage(name, payload, DAMAGED);
            return Ok(None);
        }
        computed.map_err(|why| LeaseError::Unavailable { name: *name, why })?;
        Ok(Some(output))
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

impl Item<'_> {
    /// The item's rows of `input` `[T, H]`, copied to `gathered` where they do not stand together.
    fn rows<'i>(&self, input: &'i [f32], hidden: usize, gathered: &'i mut Vec<f32>) -> &'i [f32] {
        let (first, count) = (self.tokens[0] as usize, self.tokens.len());
        if self.tokens[count - 1] as usize == first + count - 1 {
            return &input[first * hidden..][..count * hidden];
        }
        self.tokens.iter().for_each(|token| {
            gathered.extend_from_slice(&input[*token as usize * hidden..][..hidden])
        });
        gathered
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
