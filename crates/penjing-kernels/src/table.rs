//! The kernels as rows of one table: a name is the kernel's specification, `<isa>.<in>-<out>[-<weights>]-<op>[.<tile>]`.
//!
//! Element names: `f32`, quantised `qs8` and `qu8`, weights of eight bits with a scale a channel `qc8w`, plain `s8` and `u8`,
//! and `x8` to `x64` where bits are only moved. Plans and reports name what runs by these rows; `tests/rows.rs` runs every row
//! that the host supports and holds it to its exactness.

use crate::Isa;

/// What a row promises about its rounding. u is 2⁻²⁴, half a unit in the last place of 1. What an [`Activation`](crate::Activation)
/// in its epilogue may add stands there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exactness {
    /// The bits that the definition gives.
    Exact,
    /// Within so many ULP of the real result.
    Rounding(u32),
    /// A result that sums n terms is within k·(n + 8)·u·Σ|term|.
    Accumulating(u32),
    /// Winograd's convolution: a result of C channels is within k·(C + 24)·u·max|x|·Σ|w|, over all inputs of its tile and the
    /// weights of its output channel. k is the product of the transforms' greatest growth in both dimensions; it holds while
    /// max|x| is below 2¹²⁰.
    Transformed(u32),
}

/// Groups of rows that take the same operands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(missing_docs)]
pub enum Family {
    MatMul,
    Conv,
    Pool,
    Elementwise,
    Reduce,
    Norm,
    Attention,
    Movement,
    Recurrent,
    Quantize,
}

/// One kernel at one instruction-set level.
#[derive(Clone, Copy, Debug)]
pub struct KernelRow {
    /// The whole name.
    pub name: &'static str,
    /// The name without the level and its tile.
    pub spec: &'static str,
    /// The level that the host must have.
    pub isa: Isa,
    /// Its family.
    pub family: Family,
    /// Its promise.
    pub exactness: Exactness,
}

/// The row of `spec` at level `isa`.
pub fn row(isa: Isa, spec: &str) -> Option<&'static KernelRow> {
    KERNELS.iter().find(|row| row.isa == isa && row.spec == spec)
}

macro_rules! rows {
    ($($family:ident $exactness:expr, $tiles:tt => $($spec:literal)*;)*) => {
        &[$($(levels!($family $exactness, $spec, $tiles),)*)*]
    };
}

/// The rows of a kernel at every level, with the tile that it has there.
macro_rules! levels {
    ($family:ident $exactness:expr, $spec:literal, []) => {
        levels!($family $exactness, $spec, ["" "" "" ""])
    };
    ($family:ident $exactness:expr, $spec:literal, [$generic:literal $avx2:literal $avx512:literal $amx:literal]) => {
        [
            levels!(@row "generic", Isa::Generic, $family, $exactness, $spec, $generic),
            levels!(@row "avx2", Isa::Avx2, $family, $exactness, $spec, $avx2),
            levels!(@row "avx512", Isa::Avx512, $family, $exactness, $spec, $avx512),
            levels!(@row "amx", Isa::Amx, $family, $exactness, $spec, $amx),
        ]
    };
    (@row $isa_name:literal, $isa:expr, $family:ident, $exactness:expr, $spec:literal, $tile:literal) => {
        KernelRow {
            name: concat!($isa_name, ".", $spec, $tile),
            spec: $spec,
            isa: $isa,
            family: Family::$family,
            exactness: $exactness,
        }
    };
}

use Exactness::{Accumulating, Exact, Rounding, Transformed};

/// Every kernel at every level.
pub static KERNELS: &[KernelRow] = ROWS.as_flattened();

static ROWS: &[[KernelRow; Isa::ALL.len()]] = rows! {
    MatMul Accumulating(1), [".6x16" ".6x16" ".12x32" ".12x32"] => "f32-f32-f32w-gemm" "f32-f32-gemm_batched";
    MatMul Exact, [".5x16" ".5x16" ".12x32" ".32x32"] => "qs8-f32-qc8w-gemm" "qs8-qs8-qc8w-gemm" "qs8-qu8-qc8w-gemm"
        "qu8-f32-qc8w-gemm" "qu8-qs8-qc8w-gemm" "qu8-qu8-qc8w-gemm";
    Conv Accumulating(1), [".6x16" ".6x16" ".6x16" ".6x16"] => "f32-f32-f32w-conv" "f32-f32-f32w-conv_input_grad";
    Conv Accumulating(1), [".6x16" ".6x16" ".12x32" ".12x32"] => "f32-f32-f32w-conv_last" "f32-f32-f32w-conv_last_input_grad"
        "f32-f32-conv_last_weight_grad";
    Conv Accumulating(1), [".4x8" ".4x8" ".8x16" ".8x16"] => "f32-f32-f32w-conv_last_depthwise";
    Conv Accumulating(1), [".3x4" ".3x4" ".3x4" ".3x4"] => "f32-f32-conv_weight_grad";
    Conv Transformed(16), [] => "f32-f32-f32w-conv_last_winograd.2x2";
    Conv Transformed(160), [] => "f32-f32-f32w-conv_last_winograd.4x4" "f32-f32-f32w-conv_last_input_grad_winograd.4x4";
    Conv Exact, [".5x16" ".5x16" ".12x32" ".32x32"] => "qs8-f32-qc8w-conv_last" "qs8-qs8-qc8w-conv_last"
        "qs8-qu8-qc8w-conv_last" "qu8-f32-qc8w-conv_last" "qu8-qs8-qc8w-conv_last" "qu8-qu8-qc8w-conv_last";
    Conv Exact, [".4x32" ".4x32" ".4x64" ".4x64"] => "qs8-f32-qc8w-conv_last_depthwise" "qs8-qs8-qc8w-conv_last_depthwise"
        "qs8-qu8-qc8w-conv_last_depthwise" "qu8-f32-qc8w-conv_last_depthwise" "qu8-qs8-qc8w-conv_last_depthwise"
        "qu8-qu8-qc8w-conv_last_depthwise";
    Conv Exact, [] => "qs8-f32-qc8w-conv_last_winograd.4x4" "qs8-qs8-qc8w-conv_last_winograd.4x4"
        "qs8-qu8-qc8w-conv_last_winograd.4x4" "qu8-f32-qc8w-conv_last_winograd.4x4"
        "qu8-qs8-qc8w-conv_last_winograd.4x4" "qu8-qu8-qc8w-conv_last_winograd.4x4";
    Pool Exact, [] => "f32-f32-max_pool" "s8-s8-max_pool" "u8-u8-max_pool" "f32-f32-max_pool_last" "s8-s8-max_pool_last"
        "u8-u8-max_pool_last";
    Pool Accumulating(1), [] => "f32-f32-max_pool_grad" "f32-f32-avg_pool" "f32-f32-avg_pool_last" "f32-f32-avg_pool_grad"
        "f32-f32-max_pool_grad_last";
    Elementwise Rounding(4), [] => "f32-f32-chain";
    MatMul Accumulating(8), [] => "f32-f32-attention_grad";
    Reduce Exact, [] => "qs8-f32-mean" "qs8-qs8-mean" "qs8-qu8-mean" "qu8-f32-mean" "qu8-qs8-mean" "qu8-qu8-mean";
    Reduce Accumulating(1), [] => "f32-f32-reduce";
    Reduce Exact, [] => "f32-i64-arg_reduce";
    Reduce Accumulating(4), [] => "f32-f32-softmax" "f32-f32-log_softmax" "f32-f32-softmax_grad"
        "f32-f32-log_softmax_grad";
    Norm Accumulating(4), [] => "f32-f32-layer_norm" "f32-f32-rms_norm" "f32-f32-group_norm" "f32-f32-batch_norm_train"
        "f32-f32-layer_norm_grad" "f32-f32-batch_norm_grad" "f32-f32-batch_norm_train_last"
        "f32-f32-batch_norm_grad_last";
    Attention Accumulating(8), [".6x16" ".6x16" ".12x32" ".12x32"] => "f32-f32-attention";
    Movement Exact, [] => "x8-x8-permute" "x16-x16-permute" "x32-x32-permute" "x64-x64-permute" "x8-x8-slice"
        "x16-x16-slice" "x32-x32-slice" "x64-x64-slice" "x8-x8-expand" "x16-x16-expand" "x32-x32-expand"
        "x64-x64-expand" "x8-x8-concat" "x16-x16-concat" "x32-x32-concat" "x64-x64-concat" "x8-x8-pad" "x16-x16-pad"
        "x32-x32-pad" "x64-x64-pad" "x8-x8-gather" "x16-x16-gather" "x32-x32-gather" "x64-x64-gather" "x8-x8-one_hot"
        "x16-x16-one_hot" "x32-x32-one_hot" "x64-x64-one_hot";
    Movement Accumulating(1), [] => "f32-f32-gather_grad";
    Recurrent Accumulating(8), [] => "f32-f32-f32w-lstm" "qs8-f32-qc8w-lstm" "qu8-f32-qc8w-lstm" "f32-f32-lstm_grad"
        "f32-f32-f32w-gru" "qs8-f32-qc8w-gru" "qu8-f32-qc8w-gru";
    Quantize Exact, [] => "f32-qs8-quantize" "f32-qu8-quantize" "qs8-f32-dequantize" "qu8-f32-dequantize"
        "f32-f32-fake_quant";
};

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_every_level_has_every_kernel() {
        let names: BTreeSet<&str> = KERNELS.iter().map(|r| r.name).collect();
        assert_eq!(names.len(), KERNELS.len());
        for r in KERNELS {
            let tile =
                r.name.strip_prefix(&format!("{}.{}", r.isa.name(), r.spec)).expect("a name is level, spec and tile");
            assert!(tile.is_empty() || tile.starts_with('.'), "{}", r.name);
            assert!(Isa::ALL.into_iter().all(|isa| row(isa, r.spec).is_some()), "{}", r.spec);
        }
    }

    #[test]
    fn a_row_is_found_by_its_spec() {
        let found = |isa, spec| row(isa, spec).map(|r| r.name);
        assert_eq!(found(Isa::Avx2, "f32-f32-f32w-gemm"), Some("avx2.f32-f32-f32w-gemm.6x16"));
        assert_eq!(found(Isa::Avx512, "f32-f32-f32w-gemm"), Some("avx512.f32-f32-f32w-gemm.12x32"));
        assert_eq!(found(Isa::Avx2, "f32-f32-f32w"), None);
        assert_eq!(found(Isa::Avx2, "x8-x8-pad"), Some("avx2.x8-x8-pad"));
    }
}
