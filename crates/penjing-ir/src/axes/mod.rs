//! How the axes of an op's operands and results hang together: one table for pruning, sharding and quantization.
//!
//! A [`Tie`] joins index ranges of axes that stand or fall together: its logical index i covers some physical indices of each
//! [`Member`]. A plain axis is one range; a concatenation, a flatten, the groups of a convolution, heads and gates make
//! [`Segment`]s. An axis that a flatten or a grouping builds from several factors has one tie for each factor.
//!
//! What the role of a tie promises, S being any choice of logical indices and x|S an operand with only those kept:
//! - **Free**: op(x|S) = op(x)|S. Results that are no members are the same for every S.
//! - **Reduced**: results that are members are Free; the others, combined over a partition by the reduction, give op(x).
//!   Operands listed in [`AxisRow::addends`] enter only one part.
//! - **Opaque**: the indices belong together, but results at one index depend on operands at others, for the reason given.
//!
//! Axes of extent 1 take no part: they broadcast. The table is tested against the reference interpreter.

mod attention;
mod collective;
mod conv;
mod elementwise;
mod index;
mod matmul;
mod movement;
mod norm;
mod pool;
mod quant;
mod recurrent;
mod reduce;
mod slice;

pub use slice::slice_op;

use crate::{Fact, Op, Reduction};

/// An operand or a result of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Operand {
    /// The operand of this number.
    In(usize),
    /// The result of this number.
    Out(usize),
}

/// The physical indices of a tie on one axis: logical index i covers `start + o·period + i·step + r` for o < `repeat`, r < `run`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Segment {
    /// Where logical index 0 begins.
    pub start: usize,
    /// Distance from one logical index to the next; negative for a reversal.
    pub step: isize,
    /// Contiguous physical indices of one logical index.
    pub run: usize,
    /// How often the pattern occurs.
    pub repeat: usize,
    /// Distance between two occurrences.
    pub period: usize,
}

impl Segment {
    /// The indices themselves.
    pub const PLAIN: Segment = Segment { start: 0, step: 1, run: 1, repeat: 1, period: 0 };

    /// Consecutive indices from `start` on.
    pub fn at(start: usize) -> Segment {
        Segment { start, ..Segment::PLAIN }
    }

    /// Consecutive blocks of `run` indices.
    pub fn blocks(run: usize) -> Segment {
        Segment { step: run as isize, run, ..Segment::PLAIN }
    }

    /// Every `period` indices again: the digit below a block of `period`.
    pub fn repeated(repeat: usize, period: usize) -> Segment {
        Segment { repeat, period, ..Segment::PLAIN }
    }

    /// How many physical indices one logical index covers.
    pub fn width(&self) -> usize {
        self.run * self.repeat
    }

    /// The physical indices of logical index `i`, in order of occurrence.
    pub fn indices(&self, i: usize) -> impl Iterator<Item = usize> + use<> {
        let s = *self;
        (0..s.repeat).flat_map(move |o| {
            let first = (s.start + o * s.period).wrapping_add_signed(s.step * i as isize);
            first..first + s.run
        })
    }
}

/// One axis that takes part in a tie.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Member {
    /// Whose axis.
    pub operand: Operand,
    /// Which axis.
    pub axis: usize,
    /// Which indices of it.
    pub segment: Segment,
}

/// Why results at one index depend on operands at others.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Coupling {
    /// A normalisation or batch statistics run over the axis.
    Normalized,
    /// Positions depend on their order, e.g. time in a recurrence.
    Ordered,
    /// The axis is summed inside the op, before something nonlinear.
    Inner,
    /// Data says which index is meant.
    Indexed,
    /// Padding repeats some indices.
    Mirrored,
}

/// What cutting a tie's indices does; see the module's documentation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TieRole {
    /// Independent for each index.
    Free,
    /// Results without the axis combine over it (`Mean`: weighted by the number of indices).
    Reduced(Reduction),
    /// Only the extents go together.
    Opaque(Coupling),
}

/// Indices of several axes that belong together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tie {
    /// What cutting does.
    pub role: TieRole,
    /// Number of logical indices.
    pub count: usize,
    /// The axes.
    pub members: Vec<Member>,
}

impl Tie {
    /// The members that belong to an operand or result.
    pub fn members_of(&self, operand: Operand) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(move |m| m.operand == operand)
    }
}

/// Indices of an axis that no tie covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Untied {
    /// Whose axis.
    pub operand: Operand,
    /// Which axis.
    pub axis: usize,
    /// Why.
    pub why: &'static str,
}

/// The row of one op in the table.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AxisRow {
    /// What belongs together.
    pub ties: Vec<Tie>,
    /// What belongs to nothing.
    pub untied: Vec<Untied>,
    /// Operands that are added once to a result that is otherwise a sum over the reduced ties, e.g. a bias.
    pub addends: Vec<usize>,
}

/// The row of `op` for operands and results with these facts, which must be what inference gives. While an extent is symbolic
/// (or late) the row is empty.
pub fn axes(op: &Op, inputs: &[Fact], outputs: &[Fact]) -> AxisRow {
    let shapes = |facts: &[Fact]| facts.iter().map(Fact::concrete).collect::<Option<Vec<_>>>();
    let (Some(x), Some(y)) = (shapes(inputs), shapes(outputs)) else { return AxisRow::default() };
    let mut row = Row { x, y, row: AxisRow::default() };
    if row.x.iter().chain(&row.y).any(|s| s.contains(&0)) {
        return row.row;
    }
    fill(op, &mut row);
    row.row
}

fn fill(op: &Op, row: &mut Row) {
    match op {
        Op::Unary(_) | Op::Binary(_) | Op::Compare(_) | Op::Select | Op::Cast(_) | Op::StopGradient => {
            elementwise::broadcast(row);
        }
        Op::Reduce { kind, axes, keep } => reduce::reduce(row, *kind, axes, *keep),
        Op::ArgReduce { axis, keep, .. } => reduce::arg_reduce(row, *axis, *keep),
        Op::CumSum { axis, .. } => row.along(*axis, Coupling::Ordered),
        Op::TopK { axis, .. } => reduce::top_k(row, *axis),
        Op::Permute { perm } => movement::permute(row, perm),
        Op::Reshape { .. } => movement::reshape(row),
        Op::Expand { .. } => elementwise::broadcast(row),
        Op::Slice { ranges } => movement::slice(row, ranges),
        Op::Concat { axis } => movement::concat(row, *axis),
        Op::Pad { before, after, mode } => movement::pad(row, before, after, *mode),
        Op::Gather { axis } => index::gather(row, *axis),
        Op::GatherGrad { axis, .. } => index::gather_grad(row, *axis),
        Op::GatherElements { axis } => index::gather_elements(row, *axis),
        Op::ScatterElements { axis, .. } => index::scatter_elements(row, *axis),
        Op::GatherNd { batch_dims } => index::gather_nd(row, *batch_dims),
        Op::ScatterNd { .. } => index::scatter_nd(row),
        Op::OneHot { axis, .. } => index::one_hot(row, *axis),
        Op::Iota { axis, .. } => index::iota(row, *axis),
        Op::DimValues { .. } => row.untie_all("the values are those of the graph's dims"),
        Op::NonZero { .. } => row.untie_all("the result's extent depends on data"),
        Op::Random { .. } => row.untie_all("a random number belongs to its position in the whole tensor"),
        Op::MatMul { trans_a, trans_b } => matmul::matmul(row, *trans_a, *trans_b),
        Op::Conv(spec) => conv::conv(row, spec),
        Op::ConvTranspose { spec, output_pad } => conv::conv_transpose(row, spec, output_pad),
        Op::ConvWeightGrad { spec, kernel } => conv::conv_weight_grad(row, spec, kernel),
        Op::Pool { spec, .. } => pool::pool(row, spec),
        Op::PoolGrad { spec, .. } => pool::pool_grad(row, spec),
        Op::Softmax { axis } | Op::LogSoftmax { axis } => row.along(*axis, Coupling::Normalized),
        Op::BatchNorm { .. } => norm::batch_norm(row),
        Op::BatchNormTrain { .. } | Op::BatchNormGrad { .. } => norm::batch_statistics(row),
        Op::LayerNorm { axis, .. } | Op::RmsNorm { axis, .. } => norm::over_last(row, *axis),
        Op::LayerNormGrad { axis, .. } => norm::over_last_grad(row, *axis),
        Op::GroupNorm { groups, .. } => norm::group_norm(row, *groups),
        Op::Attention { causal, .. } => attention::attention(row, *causal),
        Op::AttentionGrad { .. } => attention::attention_grad(row),
        Op::Lstm { .. } => recurrent::lstm(row),
        Op::Gru { .. } => recurrent::gru(row),
        Op::LstmGrad { .. } => recurrent::lstm_grad(row),
        Op::Quantize(scheme) | Op::Dequantize(scheme) | Op::FakeQuant(scheme) => quant::quantize(row, scheme),
        Op::DynamicQuantize => row.untie_all("the grid depends on the whole tensor"),
        Op::AllReduce => collective::all_reduce(row),
        Op::If { .. } => row.untie_all("the bodies have rows of their own"),
        Op::Machine(_) => row.untie_all("a machine op is laid out already"),
    }
}

/// A row under construction, with the shapes it is about.
struct Row {
    x: Vec<Vec<usize>>,
    y: Vec<Vec<usize>>,
    row: AxisRow,
}

impl Row {
    fn shape(&self, operand: Operand) -> &[usize] {
        match operand {
            Operand::In(i) => &self.x[i],
            Operand::Out(i) => &self.y[i],
        }
    }

    fn operands(&self) -> Vec<Operand> {
        (0..self.x.len()).map(Operand::In).chain((0..self.y.len()).map(Operand::Out)).collect()
    }

    /// Whole axes of one extent. A tie of one index says nothing and is left out.
    fn whole(&mut self, role: TieRole, axes: &[(Operand, usize)]) {
        let Some(&(operand, axis)) = axes.first() else { return };
        let count = self.shape(operand)[axis];
        let members = axes.iter().map(|&(operand, axis)| Member { operand, axis, segment: Segment::PLAIN });
        self.tie(role, count, members.collect());
    }

    fn tie(&mut self, role: TieRole, count: usize, members: Vec<Member>) {
        if count > 1 && !members.is_empty() {
            self.row.ties.push(Tie { role, count, members });
        }
    }

    fn untie(&mut self, operand: Operand, axis: usize, why: &'static str) {
        if self.shape(operand)[axis] > 1 {
            self.row.untied.push(Untied { operand, axis, why });
        }
    }

    fn untie_all(&mut self, why: &'static str) {
        for operand in self.operands() {
            for axis in 0..self.shape(operand).len() {
                self.untie(operand, axis, why);
            }
        }
    }

    /// One operand and results of its shape; everything is free but `axis`.
    fn along(&mut self, axis: usize, coupling: Coupling) {
        for a in 0..self.x[0].len() {
            let role = if a == axis { TieRole::Opaque(coupling) } else { TieRole::Free };
            self.whole(role, &[(Operand::In(0), a), (Operand::Out(0), a)]);
        }
    }
}

fn member(operand: Operand, axis: usize, segment: Segment) -> Member {
    Member { operand, axis, segment }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_enumerate_their_indices() {
        let gates = Segment { repeat: 4, period: 3, ..Segment::PLAIN };
        assert_eq!(gates.indices(1).collect::<Vec<_>>(), [1, 4, 7, 10]);
        assert_eq!(Segment::blocks(2).indices(3).collect::<Vec<_>>(), [6, 7]);
        let reversed = Segment { start: 9, step: -2, ..Segment::PLAIN };
        assert_eq!(reversed.indices(2).collect::<Vec<_>>(), [5]);
        assert_eq!(gates.width(), 4);
    }
}
