//! The model with its candidates, and the texts.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use blyan_formats::TensorName;
use blyan_formats::tensorblock::TensorBuf;
use blyan_inference::engine::{Engine, ExpertFfn, Recorder, WeightSource};
use blyan_inference::graph::ModelShape;
use blyan_learner::{CandidateTable, Comparison, Lesson, Rule, learn, read, weights_of};
use blyan_model::Text;
use blyan_model::eval::token_losses;
use blyan_model::fit::tokenise;
use blyan_protocol::ExpertTable;
use blyan_supervisors::NoProbe;
use blyan_tile_owner::SliceShape;

use super::report::{Judgement, Scores, Taught};
use super::{BOOTSTRAP_SEED, LearnArgs, TOP_K};
use crate::cli::miner::{payload_file_name, put_payload};
use crate::cli::progress::Bar;
use crate::config::Config;
use crate::wiring::{LocalModel, SharedSource, engine_options, shared_weights};

/// Tokens of a window; each is read from nothing.
const WINDOW: usize = 512;
/// How long an expert may take to be mapped.
const LEASE: Duration = Duration::from_secs(30);
/// The last of so many windows is kept apart from those that are learned from.
const KEPT_APART: usize = 10;

pub struct Classroom<'a> {
    config: &'a Config,
    args: &'a LearnArgs,
    local: &'a LocalModel,
    shape: ModelShape,
    weights: Arc<dyn WeightSource>,
    table: Arc<CandidateTable>,
    /// Computes with the candidates.
    engine: Engine,
    top_k: u32,
    /// To learn from, and of the same texts what is kept apart.
    texts: [Vec<u32>; 2],
    held_out: Vec<u32>,
}

impl<'a> Classroom<'a> {
    /// # Errors
    /// A name is no expert's, a text cannot be read or is too short, or there is no engine.
    pub async fn open(
        config: &'a Config,
        local: &'a LocalModel,
        args: &'a LearnArgs,
    ) -> Result<Self> {
        for name in &args.experts {
            let known = name.expert().is_some() && local.model.entries.contains_key(name);
            ensure!(known, "{name} is no expert of the model");
        }
        let form = config.inference.backend.form();
        let shared = shared_weights(&local.model);
        let shared = local.cache.load_shared(&shared, form).await?;
        let weights: Arc<dyn WeightSource> = Arc::new(SharedSource(shared));
        let table = Arc::new(CandidateTable::new(Arc::new(local.cache.table())));
        let shape = ModelShape::from(&local.model.architecture);
        let engine = Engine::new(
            engine_options(config, &local.model, Arc::new(NoProbe)),
            shape,
            &local.model.entries,
            Arc::clone(&weights),
            Arc::clone(&table) as _,
            config.inference.backend.kernel(),
        )?;
        Ok(Self {
            texts: apart(&share_of_each(local, &args.texts, args.tokens)?),
            held_out: share_of_each(local, &args.held_out, args.held_out_tokens)?,
            top_k: local.top_k(Some(args.compute.top_k_experts.unwrap_or(TOP_K)))?,
            config,
            args,
            local,
            shape,
            weights,
            table,
            engine,
        })
    }

    /// Teaches the experts one after the other, each beside those before that are adopted or still to be judged.
    ///
    /// # Errors
    /// The engine fails, or a payload cannot be written.
    pub fn teach_all(&self) -> Result<()> {
        let experts = &self.args.experts;
        let judged_at_once = if self.args.together { experts.len() } else { 1 };
        let start = self.score()?;
        start.say("before", self.top_k, self.args.json);
        let mut adopted = None;
        for group in experts.chunks(judged_at_once) {
            let now = adopted.as_ref().unwrap_or(&start);
            adopted = self.teach(group, &start, now)?.or(adopted);
        }
        let end = adopted.as_ref().unwrap_or(&start);
        end.say("after", self.top_k, self.args.json);
        Ok(())
    }

    /// Teaches a group and judges it as one: what is adopted is written and stays in the table, and its scores are returned.
    /// The gain must be over `now`; the harm with all experts counts from `start`, so that several together do no more.
    fn teach(&self, group: &[TensorName], start: &Scores, now: &Scores) -> Result<Option<Scores>> {
        let candidates = group.iter().map(|name| self.teach_one(*name));
        let candidates = candidates.collect::<Result<Vec<_>>>()?;
        let scores = self.score()?;
        let comparison = Comparison::new(
            [&now.sparse, &scores.sparse],
            [&start.dense, &scores.dense],
            BOOTSTRAP_SEED,
        );
        let verdict = Rule::default().judge(&comparison, scores.sparse.windows());
        let mut payloads = Vec::new();
        for (name, candidate) in group.iter().zip(&candidates) {
            if verdict.is_ok() {
                let path = self.args.out.join(payload_file_name(*name));
                payloads.push(put_payload(&path, candidate)?.payload_hash);
            } else {
                self.table.withdraw(name);
            }
        }
        let judgement = Judgement {
            experts: group,
            comparison,
            verdict,
            payloads,
        };
        judgement.say(self.args.json);
        Ok(verdict.is_ok().then_some(scores))
    }

    /// The candidate as it will be stored; it is in the table from now on.
    fn teach_one(&self, name: TensorName) -> Result<TensorBuf> {
        let began = Instant::now();
        let [lesson, apart] = self.lessons(name)?;
        let bar = Bar::of_things("learning");
        let steps = u64::from(self.args.steps);
        let told = |step: u32, loss: f64| {
            bar.tell(format!("learning, loss {loss:.5}"));
            bar.set(step.into(), steps);
        };
        let learned = learn(&lesson, &self.args.course(), &told)?;
        drop(bar);
        let taught = Taught {
            expert: name,
            tokens: lesson.tokens(),
            left: [lesson.error_of(&learned)?, apart.error_of(&learned)?],
            seconds: began.elapsed().as_secs_f64(),
        };
        taught.say(self.args.json);
        let (rows, cols) = (3 * self.shape.neurons, self.shape.hidden);
        let candidate = TensorBuf::quantise_int8_blocks(rows, cols, &learned)?;
        self.table.put(name, candidate.clone())?;
        Ok(candidate)
    }

    /// What to learn from, and what is kept apart.
    fn lessons(&self, name: TensorName) -> Result<[Lesson; 2]> {
        let layer = name
            .layer()
            .with_context(|| format!("{name} is no expert"))?;
        let entry = self.local.model.entries.get(&name);
        let entry = entry.with_context(|| format!("there is no {name}"))?;
        let form = self.config.inference.backend.form();
        let deadline = Instant::now() + LEASE;
        let own = weights_of(&*self.table, &name, &entry.payload, form, deadline)?;
        let size = SliceShape {
            hidden: self.shape.hidden,
            neurons: self.shape.neurons,
        };
        let (engine, recorder) = self.recording(layer.into())?;
        let [learned_from, apart] = &self.texts;
        let record = |tokens: &[u32]| -> Result<Lesson> {
            let bar = Bar::of_things("reading");
            let mut lesson = Lesson::new(name, size, own.clone())?;
            read(
                &engine,
                &recorder,
                tokens,
                (WINDOW, self.top_k),
                &mut |record| lesson.add(&record),
                &|done, all| bar.set(done as u64, all as u64),
            )?;
            Ok(lesson)
        };
        Ok([record(learned_from)?, record(apart)?])
    }

    /// An engine that records a layer. What the layer should give is what that of the published model gives.
    fn recording(&self, layer: usize) -> Result<(Engine, Arc<Recorder>)> {
        let over = |table: Arc<dyn ExpertTable>| {
            let kernel = self.config.inference.backend.kernel();
            ExpertFfn::new(self.shape, &self.local.model.entries, table, kernel)
        };
        let experts = over(Arc::clone(&self.table) as _)?;
        let teacher = over(Arc::new(self.local.cache.table()))?;
        let recorder = Arc::new(Recorder::new(experts, teacher, layer));
        let mut options = engine_options(self.config, &self.local.model, Arc::new(NoProbe));
        options.chunk_max = WINDOW;
        let weights = Arc::clone(&self.weights);
        let engine = Engine::recording(options, self.shape, weights, Arc::clone(&recorder))?;
        Ok((engine, recorder))
    }

    fn score(&self) -> Result<Scores> {
        let losses = |top_k| {
            let bar = Bar::of_things("judging");
            let told = |done: usize, all: usize| bar.set(done as u64, all as u64);
            token_losses(&self.engine, &self.held_out, WINDOW, top_k, &told)
        };
        Ok(Scores {
            sparse: losses(self.top_k)?,
            dense: losses(self.local.top_k(None)?)?,
        })
    }
}

/// Whole windows of each text from its start on, so that none holds two texts.
fn share_of_each(local: &LocalModel, paths: &[PathBuf], tokens: usize) -> Result<Vec<u32>> {
    let share = tokens.div_ceil(paths.len()).next_multiple_of(WINDOW);
    let mut all = Vec::new();
    for path in paths {
        let tokens = tokenise(&local.model.architecture, &Text::read(path)?)?;
        let windows = tokens.len() / WINDOW * WINDOW;
        ensure!(
            windows > 0,
            "{}: fewer than {WINDOW} tokens",
            path.display()
        );
        all.extend_from_slice(&tokens[..share.min(windows)]);
    }
    Ok(all)
}

/// All windows but every [`KEPT_APART`]th, and those.
fn apart(tokens: &[u32]) -> [Vec<u32>; 2] {
    [false, true].map(|wanted| {
        let windows = tokens.chunks(WINDOW).enumerate();
        let windows =
            windows.filter(|(number, _)| (number % KEPT_APART == KEPT_APART - 1) == wanted);
        windows.flat_map(|(_, window)| window).copied().collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tenth_window_is_kept_apart_whole() {
        let tokens: Vec<u32> = (0..25 * WINDOW as u32).collect();
        let [learned_from, kept] = apart(&tokens);
        assert_eq!((learned_from.len(), kept.len()), (23 * WINDOW, 2 * WINDOW));
        assert_eq!(kept[..WINDOW], tokens[9 * WINDOW..10 * WINDOW]);
        assert_eq!(kept[WINDOW..], tokens[19 * WINDOW..20 * WINDOW]);
        assert!(kept.iter().all(|token| !learned_from.contains(token)));
    }
}
