//! A model made ready to answer: simplified, lowered once for each input shape, run by name.

use crate::TrainError;
use penjing_exec::{Outputs, Program, ProgramId, Session, Target, lower};
use penjing_ir::{Bindings, Model};
use penjing_reference::bind_inputs;
use penjing_rewrite::{Trace, optimize_for_inference};
use penjing_tensor::{Tensor, fnv1a};
use std::collections::BTreeMap;

/// A model with the programs that its input shapes have needed so far.
pub struct Inference {
    session: Session,
    programs: Programs,
}

/// The shape of each input, by its name.
type Shapes = BTreeMap<String, Vec<usize>>;

enum Programs {
    /// The only one of a model without free extents. The model is gone, so that its weights are not held beside their packed
    /// forms.
    One(ProgramId),
    ByShapes {
        model: Box<Model>,
        known: BTreeMap<Shapes, ProgramId>,
    },
}

impl Inference {
    /// Simplifies the model for inference, and lowers it when it has no free extent.
    pub fn new(model: &Model, target: Target) -> Result<Inference, TrainError> {
        Inference::traced(model, target, &mut Trace::new())
    }

    /// As [`Inference::new`]; `trace` says what was simplified, and bounds it.
    pub fn traced(model: &Model, target: Target, trace: &mut Trace) -> Result<Inference, TrainError> {
        let model = optimize_for_inference(model, trace)?;
        let mut session = Session::new(target)?;
        let programs = if model.symbols().is_empty() {
            Programs::One(session.load(lower(model, &Bindings::new(), &target)?)?)
        } else {
            Programs::ByShapes { model: Box::new(model), known: BTreeMap::new() }
        };
        Ok(Inference { session, programs })
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
        let (model, known) = match &mut self.programs {
            Programs::One(id) => return Ok(*id),
            Programs::ByShapes { model, known } => (model, known),
        };
        let shapes: Shapes = inputs.iter().map(|(n, t)| ((*n).to_string(), t.shape().to_vec())).collect();
        if let Some(id) = known.get(&shapes) {
            return Ok(*id);
        }
        let named: BTreeMap<String, Tensor> = inputs.iter().map(|(n, t)| ((*n).to_string(), (*t).clone())).collect();
        let bindings = bind_inputs(&model.graph, &named)?;
        let program = lower((**model).clone(), &bindings, &self.session.target())?;
        let id = self.session.load(program)?;
        known.insert(shapes, id);
        Ok(id)
    }
}

/// A hash of a program's plan: equal hashes run the same kernels on the same memory.
pub fn fingerprint(program: &Program) -> String {
    format!("{:016x}", fnv1a(program.text().as_bytes()))
}
