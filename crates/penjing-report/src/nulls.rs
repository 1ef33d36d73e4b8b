//! Lists of numbers in which JSON's `null` stands for a number that is not finite.
//!
//! JSON has no NaN; serde_json writes one as `null`, and this reads it back as NaN.

use serde::{Deserialize, Deserializer};

/// Reads a list of numbers, `null` as NaN; a list that is `null` itself is empty.
pub(crate) fn numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
    let list = Option::<Vec<Option<f64>>>::deserialize(deserializer)?;
    Ok(list.unwrap_or_default().into_iter().map(|v| v.unwrap_or(f64::NAN)).collect())
}
