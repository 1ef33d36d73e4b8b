//! The training loop: every rank runs the same program on its part of each batch.

use crate::{
    Checkpoint, CheckpointPolicy, TrainError,
    evaluate::single_input,
    inference::fingerprint,
    step_model::{SHARE, training_models},
};
use penjing_data::{Batch, Dataset, Loader, LoaderConfig, Shard};
use penjing_exec::{ExecError, ProgramId, Session, Target, lower};
use penjing_grad::{LossConfig, OptimizerConfig, Schedule, UpdateOptions, names};
use penjing_ir::{Bindings, Model, Role};
use penjing_parallel::{Comm, ParallelError, SummingRank, ThreadComm, Timeline, run_ranks};
use penjing_reference::bind_inputs;
use penjing_rewrite::for_inference;
use penjing_tensor::{Tensor, fnv1a};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, ops::ControlFlow, path::Path, sync::Arc, time::Instant};

/// How a model is trained. Two runs with equal configuration, model and data give equal bits, at any thread count.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Passes over the data.
    pub epochs: u64,
    /// What is minimised.
    #[serde(default)]
    pub loss: LossConfig,
    /// The optimizer; its rate is the schedule's base rate.
    pub optimizer: OptimizerConfig,
    /// The course of the learning rate.
    #[serde(default)]
    pub schedule: Schedule,
    /// Clipping and the moving average of weights. With an average, the trained model holds the averaged weights.
    #[serde(default)]
    pub update: UpdateOptions,
    /// Parts that each rank cuts its batch into, so that less memory is needed for activations; gradients add up.
    #[serde(default = "one")]
    pub accumulate: usize,
    /// Data-parallel ranks; the batch is cut over them.
    #[serde(default = "one")]
    pub ranks: usize,
}

fn one() -> usize {
    1
}

/// What a finished run gives.
pub struct Trained {
    /// The model with the trained states.
    pub model: Model,
    /// The loss of each update.
    pub losses: Vec<f32>,
    /// Hash of the training plan of the first batch.
    pub plan_hash: String,
    /// What each rank did when.
    pub timeline: Timeline,
}

/// What a run says after each update.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Updates done.
    pub step: u64,
    /// Updates of the whole run.
    pub total_steps: u64,
    /// The epoch of this update, from 0.
    pub epoch: u64,
    /// Its loss.
    pub loss: f32,
    /// Samples trained on per second since the run (re)started.
    pub samples_per_s: f64,
}

/// What is told of each update; breaking ends the run at once with [`TrainError::Interrupted`], before any checkpoint that is due.
pub type OnProgress<'a> = dyn Fn(&Progress) -> ControlFlow<()> + Sync + 'a;

/// Trains a model. With a checkpoint policy whose file exists the run goes on from there; `progress` is called by rank 0.
pub fn train(
    model: &Model,
    data: &Dataset,
    loader: &LoaderConfig,
    config: &TrainConfig,
    target: Target,
    checkpoint: Option<&CheckpointPolicy>,
    progress: &OnProgress<'_>,
) -> Result<Trained, TrainError> {
    for (what, n) in [("the number of ranks", config.ranks), ("the number of accumulated parts", config.accumulate)] {
        if n == 0 {
            return Err(TrainError::Zero { what });
        }
    }
    if checkpoint.is_some_and(|c| c.every == 0) {
        return Err(TrainError::Zero { what: "the number of updates between checkpoints" });
    }
    if data.is_empty() {
        return Err(TrainError::NoSamples { data: data.name().into() });
    }
    config.schedule.check()?;
    let resumed = match checkpoint {
        Some(policy) if policy.path.exists() => Some(Checkpoint::read(&policy.path)?),
        _ => None,
    };
    let timeline = Timeline::new();
    let job = Job {
        model,
        data,
        loader,
        config,
        target,
        checkpoint,
        resumed: resumed.as_ref(),
        timeline: &timeline,
        progress,
    };
    let ranks = run_ranks(config.ranks, |comm| Rank::new(&job, comm)?.run())?;
    let (states, losses, plan_hash) = ranks.into_iter().next().ok_or(ParallelError::RankCount(0))?;
    Ok(Trained { model: with_states(model, &states, config)?, losses, plan_hash, timeline })
}

/// What every rank of a run shares.
struct Job<'a> {
    model: &'a Model,
    data: &'a Dataset,
    loader: &'a LoaderConfig,
    config: &'a TrainConfig,
    target: Target,
    checkpoint: Option<&'a CheckpointPolicy>,
    resumed: Option<&'a Checkpoint>,
    timeline: &'a Timeline,
    progress: &'a OnProgress<'a>,
}

type RankResult = (BTreeMap<String, Tensor>, Vec<f32>, String);

struct Rank<'a> {
    job: &'a Job<'a>,
    comm: ThreadComm,
    session: Session,
    /// One for each accumulated part.
    loaders: Vec<Loader>,
    input: String,
    /// Training graph with a symbolic batch.
    step_model: Model,
    programs: BTreeMap<Vec<usize>, ProgramId>,
    /// The update of accumulated gradients.
    apply: Option<ProgramId>,
    step: u64,
    losses: Vec<f32>,
}

impl<'a> Rank<'a> {
    fn new(job: &'a Job<'a>, comm: ThreadComm) -> Result<Rank<'a>, TrainError> {
        let config = job.config;
        let (rank, parts) = (comm.rank(), config.accumulate);
        let loaders = (0..parts)
            .map(|part| {
                let shard = Shard { rank: rank * parts + part, ranks: config.ranks * parts };
                Loader::new(job.data.clone(), LoaderConfig { shard, ..job.loader.clone() })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let input = single_input(job.model, &loaders[0])?;
        let mut session = Session::new(job.target)?;
        if config.ranks > 1 {
            session.set_collective(Box::new(SummingRank::new(comm.clone(), Some(job.timeline.clone()))));
        }
        let (step_model, apply) = training_models(job.model, config)?;
        let apply = match apply {
            Some(model) => Some(session.load(lower(model, &Bindings::new(), &job.target)?)?),
            None => None,
        };
        let programs = BTreeMap::new();
        Ok(Rank { job, comm, session, loaders, input, step_model, programs, apply, step: 0, losses: Vec::new() })
    }

    fn run(mut self) -> Result<RankResult, TrainError> {
        let per_epoch = self.loaders[0].batches_per_epoch() as u64;
        let total = per_epoch.saturating_mul(self.job.config.epochs);
        let first = self.loaders[0].batch(0, 0)?;
        let program = self.program(&first)?;
        let plan_hash = fingerprint(self.session.program(program));
        let identity = self.identity(&plan_hash);
        if let (Some(resumed), Some(policy)) = (self.job.resumed, self.job.checkpoint) {
            // The plan of another rank differs where it has more rows.
            if self.comm.rank() == 0 {
                resumed.check_identity(&policy.path, &identity)?;
                self.check_complete(resumed, total, &policy.path)?;
            }
            for (name, content) in &resumed.states {
                self.session.set_state(name, content)?;
            }
            self.step = resumed.step;
            self.losses = resumed.losses.clone();
        }
        let start = Instant::now();
        let mut samples = 0;
        while self.step < total {
            let (epoch, index) = (self.step / per_epoch, self.step % per_epoch);
            let span = self.job.timeline.start(self.comm.rank(), "step");
            let (loss, rows) = self.update(epoch, index as usize, total)?;
            drop(span);
            samples += rows;
            self.losses.push(loss);
            self.step += 1;
            if self.comm.rank() == 0 {
                let samples_per_s = samples as f64 / start.elapsed().as_secs_f64();
                let said = Progress { step: self.step, total_steps: total, epoch, loss, samples_per_s };
                if (self.job.progress)(&said).is_break() {
                    return Err(TrainError::Interrupted { step: self.step });
                }
            }
            self.save_if_due(total, &identity)?;
        }
        Ok((self.states()?, self.losses, plan_hash))
    }

    /// One update over all accumulated parts: the loss and the rows of the global batch.
    fn update(&mut self, epoch: u64, index: usize, total: u64) -> Result<(f32, usize), TrainError> {
        let config = self.job.config;
        let rate = config.schedule.rate(config.optimizer.learning_rate(), self.step, total) as f32;
        let (rate, step) = (Tensor::scalar(rate), Tensor::scalar(self.step as i64));
        let (mut loss, mut rows) = (0.0, 0);
        let input = self.input.clone();
        for part in 0..self.loaders.len() {
            let batch = self.loaders[part].batch(epoch, index)?;
            rows = batch.global_rows;
            let part_rows = self.rows_of_part(part, rows);
            if part_rows == 0 {
                // Nobody has rows: on every rank alike, so nobody waits for a sum.
                continue;
            }
            let share = Tensor::scalar(batch.indices.len() as f32 / part_rows as f32);
            let id = self.program(&batch)?;
            let y = batch.y.ok_or_else(|| TrainError::NoLabels { data: self.job.data.name().into() })?;
            self.check_labels(&y, &batch.indices)?;
            let tokens: usize = y.shape().iter().skip(1).product();
            let inverse = Tensor::scalar(1.0 / (batch.global_rows * tokens) as f32);
            let all = [
                (input.as_str(), &batch.x),
                (names::LABEL, &y),
                (names::INVERSE_COUNT, &inverse),
                (names::LEARNING_RATE, &rate),
                (names::STEP, &step),
                (SHARE, &share),
            ];
            let wanted: Vec<(&str, &Tensor)> = {
                let program = self.session.program(id);
                all.into_iter().filter(|(name, _)| program.inputs().any(|(have, _)| have == *name)).collect()
            };
            let outputs = match self.session.run(id, &wanted) {
                Err(ExecError::NotFinite { .. }) => return Err(self.blame(id, &wanted)),
                outputs => outputs?,
            };
            let found = outputs.iter().find(|(name, _)| name == names::LOSS).map(|(_, t)| t.to_f64s()[0] as f32);
            loss += found.unwrap_or(f32::NAN);
        }
        if let Some(id) = self.apply {
            let all = [(names::LEARNING_RATE, &rate), (names::STEP, &step)];
            let program = self.session.program(id);
            let wanted: Vec<(&str, &Tensor)> =
                all.into_iter().filter(|(name, _)| program.inputs().any(|(have, _)| have == *name)).collect();
            self.session.run(id, &wanted)?;
        }
        Ok((loss, rows))
    }

    /// A label that is no class would count as nothing: no loss, no gradient.
    fn check_labels(&self, y: &Tensor, indices: &[usize]) -> Result<(), TrainError> {
        let graph = &self.job.model.graph;
        let classes = graph.outputs.first().and_then(|o| graph.fact(o.value).shape.last()?.as_const());
        let (LossConfig::CrossEntropy { ignore, .. }, Some(classes)) = (&self.job.config.loss, classes) else {
            return Ok(());
        };
        let labels = y.to_i64s().unwrap_or_default();
        let known = |l: &i64| Some(*l) == *ignore || usize::try_from(*l).is_ok_and(|l| l < classes);
        let Some(at) = labels.iter().position(|l| !known(l)) else { return Ok(()) };
        let per_sample = (labels.len() / indices.len().max(1)).max(1);
        let sample = indices.get(at / per_sample).copied().unwrap_or(at);
        Err(TrainError::Label { label: labels[at], sample, classes })
    }

    /// Errors when a checkpoint lacks a state of this run, or its step and losses do not fit.
    fn check_complete(&self, resumed: &Checkpoint, total: u64, path: &Path) -> Result<(), TrainError> {
        let fail = |why: String| Err(TrainError::Checkpoint { path: path.into(), why });
        let missing = self.session.state_names().into_iter().find(|name| !resumed.states.contains_key(name));
        if let Some(name) = missing {
            return fail(format!("it has no state `{name}`"));
        }
        if resumed.losses.len() as u64 != resumed.step || resumed.step > total {
            return fail(format!(
                "its step {} does not fit {} losses and {total} updates",
                resumed.step,
                resumed.losses.len()
            ));
        }
        Ok(())
    }

    /// The step ended before its update, so running it again finds the first node whose result is not finite.
    fn blame(&mut self, id: ProgramId, inputs: &[(&str, &Tensor)]) -> TrainError {
        match self.session.find_not_finite(id, inputs) {
            Err(ExecError::NotFinite { node, kernel }) => TrainError::NotFinite { step: self.step, node, kernel },
            Err(other) => other.into(),
            Ok(()) => TrainError::NotFinite { step: self.step, node: "unknown".into(), kernel: "unknown".into() },
        }
    }

    /// The program for a batch's shape, lowered on first use.
    fn program(&mut self, batch: &Batch) -> Result<ProgramId, TrainError> {
        let shape = batch.x.shape().to_vec();
        if let Some(id) = self.programs.get(&shape) {
            return Ok(*id);
        }
        let bindings = self.bindings(batch)?;
        let id = self.session.load(lower(self.step_model.clone(), &bindings, &self.job.target)?)?;
        self.session.guard(id, names::LOSS);
        self.programs.insert(shape, id);
        Ok(id)
    }

    fn bindings(&self, batch: &Batch) -> Result<Bindings, TrainError> {
        let mut probe = Model::new("");
        let input = self.job.model.graph.inputs[0];
        probe.graph.add_input(&self.input, self.job.model.graph.fact(input).clone());
        Ok(bind_inputs(&probe.graph, &BTreeMap::from([(self.input.clone(), batch.x.clone())]))?)
    }

    fn save_if_due(&mut self, total: u64, identity: &BTreeMap<String, String>) -> Result<(), TrainError> {
        let Some(policy) = self.job.checkpoint else { return Ok(()) };
        if !self.step.is_multiple_of(policy.every) && self.step != total {
            return Ok(());
        }
        if self.comm.rank() == 0 {
            let (states, losses) = (self.states()?, self.losses.clone());
            Checkpoint { step: self.step, states, losses, identity: identity.clone() }.write(&policy.path)?;
        }
        Ok(self.comm.barrier("checkpoint")?)
    }

    /// Every state; what training changes must be finite, since the last update may have broken what the next loss would show.
    fn states(&self) -> Result<BTreeMap<String, Tensor>, TrainError> {
        let mut states = BTreeMap::new();
        for name in self.session.state_names() {
            let content = self.session.state(&name)?;
            let own = self.job.model.find_state(&name).map(|s| self.job.model.state(s));
            let changes = own.is_none_or(|s| s.trainable || s.role == Role::Buffer);
            if changes && content.as_slice::<f32>().is_ok_and(|v| !v.iter().all(|v| v.is_finite())) {
                let kernel = "update".into();
                return Err(TrainError::NotFinite { step: self.step.saturating_sub(1), node: name, kernel });
            }
            states.insert(name, content);
        }
        Ok(states)
    }

    /// Rows of an accumulated part over all ranks.
    fn rows_of_part(&self, part: usize, global_rows: usize) -> usize {
        let (ranks, parts) = (self.comm.size(), self.loaders.len());
        (0..ranks).map(|r| Shard { rank: r * parts + part, ranks: ranks * parts }.part(global_rows).len()).sum()
    }

    /// Name, count and, where a checkpoint will be compared with it, content of the data.
    fn data_identity(&self) -> String {
        let data = self.job.data;
        let content = self.job.checkpoint.map_or(0, |_| data.fingerprint());
        format!("{} ({} samples, {content:016x})", data.name(), data.len())
    }

    /// What a resumed run must share with this one.
    fn identity(&self, plan_hash: &str) -> BTreeMap<String, String> {
        let mut config = serde_json::to_value(self.job.config).unwrap_or_default().to_string();
        config.push_str(&format!("{:?}", self.job.loader));
        let mut states = String::new();
        for s in &self.job.model.states {
            states.push_str(&format!("{} {:?} {:?};", s.name, s.init.dtype(), s.init.shape()));
        }
        let hash = |text: &str| format!("{:016x}", fnv1a(text.as_bytes()));
        BTreeMap::from([
            ("configuration".into(), hash(&config)),
            ("data".into(), self.data_identity()),
            ("instruction set".into(), self.job.target.isa.name().into()),
            ("model".into(), hash(&states)),
            ("plan".into(), plan_hash.into()),
        ])
    }
}

/// The model with the contents that its states had at the end.
fn with_states(model: &Model, states: &BTreeMap<String, Tensor>, config: &TrainConfig) -> Result<Model, TrainError> {
    let mut out = for_inference(model)?;
    for state in &mut out.states {
        let averaged = config.update.ema_decay.and_then(|_| states.get(&format!("{}.ema", state.name)));
        if let Some(content) = averaged.or_else(|| states.get(&state.name)) {
            state.init = Arc::new(content.clone());
        }
    }
    Ok(out)
}
