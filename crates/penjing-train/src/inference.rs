//! A model made ready to answer: simplified, lowered once for each input shape, run by name.

use crate::TrainError;
use penjing_exec::{Outputs, Program, ProgramId, Session, Target, lower};
use penjing_ir::Model;
use penjing_reference::bind_inputs;
use penjing_rewrite::{Trace, optimize_for_inference};
use penjing_tensor::{Tensor, fnv1a};
use std::collections::BTreeMap;

/// A model with the programs that its input shapes have needed so far.
pub struct Inference {
    model: Model,
    session: Session,
    programs: BTreeMap<Vec<Vec<usize>>, ProgramId>,
}

impl Inference {
    /// Simplifies the model for inference; nothing is lowered yet.
    pub fn new(model: &Model, target: Target) -> Result<Inference, TrainError> {
        Inference::traced(model, target, &mut Trace::new())
    }

    /// As [`Inference::new`]; `trace` says what was simplified, and bounds it.
    pub fn traced(model: &Model, target: Target, trace: &mut Trace) -> Result<Inference, TrainError> {
        let model = optimize_for_inference(model, trace)?;
        Ok(Inference { model, session: Session::new(target)?, programs: BTreeMap::new() })
    }

    /// Runs the model; symbols are bound by the inputs' shapes.
    pub fn run(&mut self, inputs: &[(&str, &Tensor)]) -> Result<Outputs, TrainError> {
        let id = self.prepare(inputs)?;
        Ok(self.session.run(id, inputs)?)
    }

    /// The program for these inputs' shapes.
    pub fn program(&mut self, inputs: &[(&str, &Tensor)]) -> Result<&Program, TrainError> {
        let id = self.prepare(inputs)?;
        Ok(self.session.program(id))
    }

    fn prepare(&mut self, inputs: &[(&str, &Tensor)]) -> Result<ProgramId, TrainError> {
        let shapes: Vec<Vec<usize>> = inputs.iter().map(|(_, t)| t.shape().to_vec()).collect();
        if let Some(id) = self.programs.get(&shapes) {
            return Ok(*id);
        }
        let named: BTreeMap<String, Tensor> = inputs.iter().map(|(n, t)| ((*n).to_string(), (*t).clone())).collect();
        let bindings = bind_inputs(&self.model.graph, &named)?;
        let program = lower(self.model_to_lower(), &bindings, &self.session.target())?;
        let id = self.session.load(program)?;
        self.programs.insert(shapes, id);
        Ok(id)
    }

    /// The model: without a free extent it is lowered but once, and then only its signature is kept, so that its weights are
    /// not held beside their packed forms.
    fn model_to_lower(&mut self) -> Model {
        let graph = &self.model.graph;
        let mut kept = self.model.clone();
        if graph.inputs.iter().all(|&v| graph.fact(v).concrete().is_some()) {
            kept.graph.take_consts();
        }
        std::mem::replace(&mut self.model, kept)
    }
}

/// A hash of a program's plan: equal hashes run the same kernels on the same memory.
pub fn fingerprint(program: &Program) -> String {
    format!("{:016x}", fnv1a(program.text().as_bytes()))
}
