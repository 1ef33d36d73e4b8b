//! The heat table of layers: how sparse each is and in how many bits its weights are stored, variant by variant.

use std::collections::BTreeMap;

use crate::charts::mark;
use crate::compare::Comparison;
use crate::format::{self, NONE};
use crate::html::escape;
use crate::record::LayerRecord;

/// The table, one row a layer name, one column a variant that has layers; nothing where none has.
pub(crate) fn layers(comparison: &Comparison) -> String {
    let columns: Vec<usize> = (0..comparison.rows.len()).filter(|i| !comparison.rows[*i].layers.is_empty()).collect();
    if columns.is_empty() {
        return String::new();
    }
    let by_name: Vec<BTreeMap<&str, &LayerRecord>> = columns
        .iter()
        .map(|i| comparison.rows[*i].layers.iter().map(|layer| (layer.name.as_str(), layer)).collect())
        .collect();
    let body: String = names(comparison, &columns)
        .into_iter()
        .map(|name| {
            let found: Vec<Option<&LayerRecord>> = by_name.iter().map(|layers| layers.get(name).copied()).collect();
            let cells: String = found.iter().map(|layer| cell(*layer)).collect();
            let first = found.iter().flatten().next();
            let count = |of: fn(&LayerRecord) -> Option<u64>| {
                found.iter().flatten().find_map(|l| of(l)).map_or(NONE.to_owned(), format::short_count)
            };
            format!(
                "<tr><th scope=\"row\">{}</th><td class=\"op\">{}</td><td>{}</td><td>{}</td>{cells}</tr>\n",
                escape(name),
                escape(first.map_or("", |l| &l.op)),
                count(|l| l.params),
                count(|l| l.macs),
            )
        })
        .collect();
    let heads: String = columns
        .iter()
        .map(|i| format!("<th scope=\"col\">{} {}</th>", mark(*i), escape(&comparison.rows[*i].name)))
        .collect();
    let noun = comparison.noun;
    format!(
        "<section><h2>Layers</h2><div class=\"scroll tall\"><table class=\"layers\">\n<thead><tr><th scope=\"col\">Layer</th>\
         <th scope=\"col\" class=\"op\">Operation</th><th scope=\"col\">Parameters</th><th scope=\"col\">MACs</th>{heads}</tr></thead>\n\
         <tbody>\n{body}</tbody></table></div>\n\
         <p class=\"legend-text\">Each cell: the share of the layer's weights that are zero (the deeper the colour, the sparser) and the bits \
         that one weight is stored in. Parameters and MACs (multiply-accumulates for one sample) are those of the first {noun} \
         that has the layer.</p></section>\n"
    )
}

/// Every layer name once, in the order of first appearance.
fn names<'a>(comparison: &'a Comparison, columns: &[usize]) -> Vec<&'a str> {
    let mut seen = std::collections::BTreeSet::new();
    let all = columns.iter().flat_map(|i| comparison.rows[*i].layers.iter());
    all.map(|layer| layer.name.as_str()).filter(|name| seen.insert(*name)).collect()
}

fn cell(layer: Option<&LayerRecord>) -> String {
    let Some(layer) = layer else {
        return format!("<td>{NONE}</td>");
    };
    let sparsity = layer.sparsity.filter(|s| s.is_finite());
    let heat = sparsity.unwrap_or(0.0).clamp(0.0, 1.0);
    let share = sparsity.map_or(NONE.to_owned(), |s| format::percent(s, 1));
    let bits = layer.bits.filter(|b| b.is_finite());
    let bits = bits.map_or(String::new(), |b| format!("<small>{} bit</small>", format::plain(b)));
    format!("<td class=\"heat\" style=\"--share:{heat:.3}\">{share}{bits}</td>")
}
