//! What a model's constants hold while its kernels are selected: one is let go as soon as nothing needs it any more, so that
//! of a weight that a kernel packs the original is gone when the next one is packed.

use crate::schedule::is_alias;
use penjing_ir::{Model, NodeId, ValueId};
use penjing_tensor::Tensor;
use std::sync::{Arc, Mutex, PoisonError};

/// The constants of a model, taken out of it.
pub(crate) struct Contents(Vec<Mutex<Content>>);

#[derive(Default)]
struct Content {
    tensor: Option<Arc<Tensor>>,
    /// Uses by nodes that have no kernel yet, and by whatever reads the constant as it is.
    users: usize,
}

impl Contents {
    /// Takes the constants out of a fused model, whose facts stay.
    pub(crate) fn take(model: &mut Model) -> Contents {
        let mut contents: Vec<Content> = model.graph.values().iter().map(|_| Content::default()).collect();
        for (v, tensor) in model.graph.take_consts() {
            contents[v.index()].tensor = Some(tensor);
        }
        for v in model.roots() {
            contents[v.index()].users += 1;
        }
        for id in model.graph.node_ids() {
            for v in &model.graph.node(id).inputs {
                contents[v.index()].users += 1;
            }
        }
        Contents(contents.into_iter().map(Mutex::new).collect())
    }

    /// The constant that `v` is, while something needs it.
    pub(crate) fn get(&self, v: ValueId) -> Option<Arc<Tensor>> {
        self.of(v).tensor.clone()
    }

    /// A node got its kernel, which reads these of its operands as they are; the others it needs no more.
    pub(crate) fn selected(&self, model: &Model, id: NodeId, reads: &[usize]) {
        let node = model.graph.node(id);
        debug_assert!(!is_alias(&node.op), "an alias reads its operand as it is");
        for (i, &v) in node.inputs.iter().enumerate() {
            if !reads.contains(&i) {
                let mut content = self.of(v);
                content.users -= 1;
                if content.users == 0 {
                    content.tensor = None;
                }
            }
        }
    }

    fn of(&self, v: ValueId) -> std::sync::MutexGuard<'_, Content> {
        // Nothing panics while it holds the lock.
        self.0[v.index()].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
