//! What instructions cost, and how many elements to evaluate at once.

use wgrad_ir::{BinaryOp, DType, UnaryOp};

use crate::{
    tape::{BLOCK, Code, Instr},
    walk::Path,
};

/// Blocks end where most loads break anyway: at the ends of long inner axes (so that a load is a slice of its buffer, or one
/// value for the whole block), or after a whole number of short ones.
///
/// Transposed loads get blocks of 16 rows at least, which use up the cache lines they touch.
pub(crate) fn block_length(instrs: &[Instr]) -> usize {
    let paths = || {
        instrs.iter().filter(|i| !i.is_uniform()).filter_map(|i| match &i.code {
            Code::Load { path, .. }
            | Code::Index { path }
            | Code::Random { path, .. }
            | Code::Gather { path, .. } => Some(path),
            _ => None,
        })
    };
    let transposed = paths().filter(|p| p.is_transposed()).map(|p| p.inner().0).max();
    if let Some(n) = transposed.filter(|&n| n * 16 <= 64 * BLOCK) {
        return n * (BLOCK / n).max(16);
    }
    match paths().filter(|p| p.contiguous().is_none()).map(|p| p.inner().0).min() {
        None | Some(0) => BLOCK,
        Some(n) if n > BLOCK => {
            // Equal parts of one row; uneven where the row does not divide.
            n.div_ceil(n.div_ceil(BLOCK))
        }
        Some(n) if n >= BLOCK / 2 => n,
        Some(n) => BLOCK / n * n,
    }
}

/// Nanoseconds per element of one instruction.
pub(crate) fn cost(instr: &Instr) -> f64 {
    let wide = if instr.dtype == DType::F64 { 4.0 } else { 1.0 };
    let address = |path: &Path| match () {
        () if path.contiguous().is_some() => 0.1,
        () if path.is_chain() => 2.0,
        () if path.is_transposed() => 0.6,
        () if matches!(path.inner().1, 0 | 1) => 0.15 + 8.0 / path.inner().0 as f64,
        () => 1.0,
    };
    match &instr.code {
        Code::Const(_) | Code::Scalar(_) => 0.0,
        Code::Load { path, .. } | Code::Index { path } => address(path) * wide,
        Code::Random { path, .. } => 1.0 + address(path),
        Code::Gather { path, .. } => 0.3 + address(path),
        Code::Unary(op, _) => match op {
            UnaryOp::Neg | UnaryOp::Abs | UnaryOp::Not | UnaryOp::Floor => 0.05,
            UnaryOp::Sqrt | UnaryOp::Rsqrt | UnaryOp::Recip => 0.2,
            _ if instr.dtype == DType::F64 => 10.0,
            _ => 0.4,
        },
        Code::Binary(BinaryOp::Pow | BinaryOp::Rem, ..) => 8.0,
        Code::Binary(BinaryOp::Div, ..) => 0.15 * wide,
        Code::Binary(..) | Code::Compare(..) | Code::Select(..) => 0.06 * wide,
        Code::Pair(..) => 0.08,
        Code::Cast(_) => 0.1 * wide,
        Code::Product => 0.0,
        Code::Row(..) | Code::Spread(_) => 0.1 * wide,
    }
}
