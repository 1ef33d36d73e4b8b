//! Attributes of the normalisations.

/// The small number added under a square root.
pub type Eps = super::Real;
