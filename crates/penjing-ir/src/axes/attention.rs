//! Attention. The head axis is two digits: the key head, and the query head within those that share it.

use super::{Coupling, Operand, Row, Segment, TieRole, member};

const Q: Operand = Operand::In(0);
const K: Operand = Operand::In(1);
const V: Operand = Operand::In(2);
const MASK: Operand = Operand::In(3);
const Y: Operand = Operand::Out(0);

pub(super) fn attention(row: &mut Row, causal: bool) {
    let mask = |row: &Row, axis: usize| {
        let shape = row.x.get(3)?;
        let missing = 4 - shape.len();
        (axis >= missing && shape[axis - missing] > 1).then(|| axis - missing)
    };
    let with_mask = |row: &Row, axis: usize, mut members: Vec<(Operand, usize)>| {
        members.extend(mask(row, axis).map(|a| (MASK, a)));
        members
    };
    let batch = with_mask(row, 0, vec![(Q, 0), (K, 0), (V, 0), (Y, 0)]);
    row.whole(TieRole::Free, &batch);
    heads(row, mask(row, 1));
    let position = if causal { TieRole::Opaque(Coupling::Ordered) } else { TieRole::Free };
    let queries = with_mask(row, 2, vec![(Q, 2), (Y, 2)]);
    row.whole(position, &queries);
    let keys = with_mask(row, 3, vec![(K, 2), (V, 2)]);
    row.whole(TieRole::Opaque(Coupling::Normalized), &keys);
    row.whole(TieRole::Opaque(Coupling::Inner), &[(Q, 3), (K, 3)]);
    row.whole(TieRole::Free, &[(V, 3), (Y, 3)]);
}

/// Every head of every sample is a problem of its own.
pub(super) fn attention_grad(row: &mut Row) {
    let (q, k, v) = ([Q, Operand::In(3), Operand::Out(0)], [K, Operand::Out(1)], [V, Operand::Out(2)]);
    let on = |operands: &[Operand], axis: usize| operands.iter().map(|&o| (o, axis)).collect::<Vec<_>>();
    for axis in [0, 1] {
        row.whole(TieRole::Free, &[on(&q, axis), on(&k, axis), on(&v, axis)].concat());
    }
    let normalized = TieRole::Opaque(Coupling::Normalized);
    row.whole(normalized, &on(&q, 2));
    row.whole(normalized, &[on(&k, 2), on(&v, 2)].concat());
    let inner = TieRole::Opaque(Coupling::Inner);
    row.whole(inner, &[on(&[Q, Operand::Out(0)], 3), on(&k, 3)].concat());
    row.whole(inner, &[on(&[Operand::In(3)], 3), on(&v, 3)].concat());
}

fn heads(row: &mut Row, mask: Option<usize>) {
    let key_heads = row.x[1][1];
    let sharing = row.x[0][1] / key_heads;
    let queries = |segment: Segment| {
        let mut members = vec![member(Q, 1, segment), member(Y, 1, segment)];
        members.extend(mask.map(|axis| member(MASK, axis, segment)));
        members
    };
    let mut key = queries(Segment::blocks(sharing));
    key.extend([member(K, 1, Segment::PLAIN), member(V, 1, Segment::PLAIN)]);
    row.tie(TieRole::Free, key_heads, key);
    let within = if key_heads > 1 { Segment::repeated(key_heads, sharing) } else { Segment::PLAIN };
    row.tie(TieRole::Free, sharing, queries(within));
}
