//! Text as models. Everything is checked: the text may come from anyone.

use super::{
    attribute::Attribute,
    cursor::{Cursor, Why},
    table, tensor,
};
use crate::{
    Carry, Fact, Graph, IrError, Model, Node, NodeId, Op, Output, Role, Source, Stage, State, StateId, Value, ValueId,
    verify,
};
use std::sync::Arc;

/// The model that [`super::print`] wrote, or that a person did.
///
/// # Errors
/// `Text` with the line that cannot be read; `Verify` for a model that reads well and is not sound, e.g. with facts that inference
/// does not give.
pub fn parse(text: &str) -> Result<Model, IrError> {
    let mut reader = Reader::default();
    for (i, line) in text.lines().enumerate() {
        let mut c = Cursor::new(line);
        reader.line(&mut c).and_then(|()| c.end()).map_err(|why| IrError::Text { line: i + 1, why })?;
    }
    let model = reader.finish().map_err(|why| IrError::Text { line: text.lines().count(), why })?;
    verify(&model, Stage::Machine)?;
    Ok(model)
}

/// The op that [`super::print_op`] wrote.
///
/// # Errors
/// `Text` with what cannot be read.
pub fn parse_op(text: &str) -> Result<Op, IrError> {
    let mut c = Cursor::new(text);
    let op = c.word().and_then(|name| table::parse_fields(name, &mut c));
    op.and_then(|op| c.end().map(|()| op)).map_err(|why| IrError::Text { line: 1, why })
}

#[derive(Default)]
struct Reader {
    model: Model,
    graphs: Vec<Parts>,
    started: bool,
}

#[derive(Default)]
struct Parts {
    name: String,
    inputs: Vec<ValueId>,
    outputs: Vec<Output>,
    nodes: Vec<Node>,
    values: Vec<Value>,
}

impl Reader {
    fn line(&mut self, c: &mut Cursor<'_>) -> Result<(), Why> {
        if c.end().is_ok() {
            return Ok(());
        }
        if !self.started {
            self.started = true;
            return c.expect("model");
        }
        if c.starts_with("%") {
            return self.graph()?.value(c);
        }
        match c.word()? {
            "meta" => {
                let key = c.string()?;
                c.expect("=")?;
                self.model.metadata.insert(key, c.string()?);
            }
            "state" => self.state(c)?,
            "graph" if self.graphs.is_empty() => self.graphs.push(Parts { name: c.string()?, ..Parts::default() }),
            "body" if !self.graphs.is_empty() => self.graphs.push(Parts { name: c.string()?, ..Parts::default() }),
            "inputs" => {
                while c.starts_with("%") {
                    let v = value_id(c)?;
                    self.graph()?.inputs.push(v);
                }
            }
            "output" => {
                let output = Output { name: c.string()?, value: value_id(c)? };
                self.graph()?.outputs.push(output);
            }
            "carry" => {
                let carry = Carry { state: state_id(c)?, value: value_id(c)? };
                self.model.carries.push(carry);
            }
            other => return Err(format!("`{other}` does not begin a line here")),
        }
        Ok(())
    }

    fn graph(&mut self) -> Result<&mut Parts, Why> {
        self.graphs.last_mut().ok_or_else(|| "no graph has begun".into())
    }

    fn state(&mut self, c: &mut Cursor<'_>) -> Result<(), Why> {
        let id = state_id(c)?;
        if id.index() != self.model.states.len() {
            return Err(format!("expected @{}", self.model.states.len()));
        }
        let name = c.string()?;
        let word = c.word()?;
        let role = Role::ALL.into_iter().find(|r| r.name() == word).ok_or_else(|| format!("unknown role `{word}`"))?;
        let trainable = c.eat("trainable ");
        let fact = Fact::parse(c)?;
        c.expect("=")?;
        let init = Arc::new(tensor::parse(c, &fact)?);
        self.model.states.push(State { name, role, trainable, init });
        Ok(())
    }

    fn finish(mut self) -> Result<Model, Why> {
        let mut graphs = self.graphs.into_iter().map(|g| {
            // Every id that lines name must be a value that some line describes.
            let named =
                g.nodes.iter().flat_map(|n| &n.inputs).chain(&g.inputs).chain(g.outputs.iter().map(|o| &o.value));
            match named.copied().find(|v| v.index() >= g.values.len()) {
                Some(v) => Err(format!("no line describes %{} of graph `{}`", v.0, g.name)),
                None => Ok(Graph::from_parts(g.name, g.inputs, g.outputs, g.nodes, g.values)),
            }
        });
        self.model.graph = graphs.next().ok_or("there is no graph")??;
        self.model.bodies = graphs.collect::<Result<_, _>>()?;
        Ok(self.model)
    }
}

impl Parts {
    /// `%3 "name" f32[2] = …`, several results separated by commas.
    fn value(&mut self, c: &mut Cursor<'_>) -> Result<(), Why> {
        let first = self.values.len();
        loop {
            let id = value_id(c)?;
            if id.index() != self.values.len() {
                return Err(format!("expected %{}", self.values.len()));
            }
            let name = if c.starts_with("\"") { c.string()? } else { String::new() };
            self.values.push(Value { name, fact: Fact::parse(c)?, source: Source::Input });
            if !c.eat(",") {
                break;
            }
        }
        c.expect("=")?;
        let several = self.values.len() - first > 1;
        if c.starts_with("\"") {
            return self.node(c, first);
        }
        if several {
            return Err("only a node has several results".into());
        }
        let value = &mut self.values[first];
        if c.starts_with("@") {
            value.source = Source::State(state_id(c)?);
        } else if !c.eat("input") {
            value.source = Source::Const(Arc::new(tensor::parse(c, &value.fact)?));
        }
        Ok(())
    }

    fn node(&mut self, c: &mut Cursor<'_>, first: usize) -> Result<(), Why> {
        let name = c.string()?;
        let op = c.word()?;
        let inputs = c.list("(", ")", value_id)?;
        let op = table::parse_fields(op, c)?;
        let id = NodeId(u32::try_from(self.nodes.len()).map_err(|_| "too many nodes")?);
        let mut outputs = Vec::new();
        for (slot, index) in (first..self.values.len()).enumerate() {
            self.values[index].source = Source::Node(id, u8::try_from(slot).map_err(|_| "too many results")?);
            outputs.push(ValueId(index as u32));
        }
        self.nodes.push(Node { name, op, inputs, outputs });
        Ok(())
    }
}

fn value_id(c: &mut Cursor<'_>) -> Result<ValueId, Why> {
    c.expect("%")?;
    c.parse("a value's number").map(ValueId)
}

fn state_id(c: &mut Cursor<'_>) -> Result<StateId, Why> {
    c.expect("@")?;
    c.parse("a state's number").map(StateId)
}
