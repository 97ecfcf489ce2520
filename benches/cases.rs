//! What is timed.

use wgrad_compile::Options;
use wgrad_ir::{BinaryOp, Graph, NodeId, ReduceOp, UnaryOp};

use crate::{
    Error, attention,
    builder::{Builder, Built},
};

/// What a run does, for throughput.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// Bytes of operands and results, once each.
    Bytes(u64),
    /// Floating-point operations.
    Flops(u64),
}

/// A graph, and how it is compiled.
pub struct Case {
    /// The group.
    pub name: String,
    /// What is computed.
    pub graph: Graph,
    /// What a run does.
    pub work: Work,
    /// The options, by name: fused first, then its definition.
    pub variants: Vec<(&'static str, Options)>,
}

/// All cases.
///
/// # Errors
/// A graph is invalid, which is a mistake here.
pub fn cases() -> Result<Vec<Case>, Error> {
    let all = Options::default();
    let no_rows = Options { rows: false, ..all };
    let unfused = Options { fuse: false, merge: false, in_place: false, ..all };
    let (rows, width) = (4096, 384);
    let moved = |numbers: usize| Work::Bytes(4 * numbers as u64);
    let mut cases = Vec::new();
    for n in [256usize, 512, 1024] {
        let work = Work::Flops(2 * (n * n * n) as u64);
        cases.push(case(&format!("matmul {n}"), matmul(n)?, work, vec![("plain", all)]));
    }
    let (m, k, n) = (1024, 384, 1536);
    let epilogue = vec![("epilogue", all), ("kernels of its own", Options { epilogues: false, ..all })];
    cases.push(case(
        "matmul, bias, gelu",
        linear_gelu(m, k, n)?,
        Work::Flops(2 * (m * k * n) as u64),
        epilogue,
    ));
    let row = || vec![("row kernel", all), ("definition", no_rows)];
    cases.push(case("softmax", softmax(rows, width)?, moved(2 * rows * width), row()));
    cases.push(case("layer norm", layer_norm(rows, width)?, moved(2 * rows * width), row()));
    let map = || vec![("one map", all), ("a map per operation", unfused)];
    cases.push(case("gelu", gelu_of(rows, width)?, moved(2 * rows * width), map()));
    cases.push(case("adamw", adamw(1 << 20)?, moved(7 << 20), map()));
    let kernel = || vec![("kernel", all), ("definition", Options { kernels: false, ..all })];
    let [batch, time, heads, head] = attention::SHAPE;
    let pairs = (batch * heads * time * (time + 1) / 2 * head) as u64;
    cases.push(case("attention", attention::forward()?, Work::Flops(4 * pairs), kernel()));
    cases.push(case("attention, backward", attention::backward()?, Work::Flops(10 * pairs), kernel()));
    Ok(cases)
}

fn case(name: &str, b: Builder, work: Work, variants: Vec<(&'static str, Options)>) -> Case {
    Case { name: name.to_owned(), graph: b.0, work, variants }
}

fn matmul(n: usize) -> Built<Builder> {
    let mut b = Builder::new();
    let (x, w) = (b.input(0, &[n, n])?, b.input(1, &[n, n])?);
    let y = b.dot(x, w)?;
    b.0.set_outputs(vec![y]);
    Ok(b)
}

fn linear_gelu(m: usize, k: usize, n: usize) -> Built<Builder> {
    let mut b = Builder::new();
    let (x, w, bias) = (b.input(0, &[m, k])?, b.input(1, &[k, n])?, b.input(2, &[n])?);
    let y = b.dot(x, w)?;
    let y = b.add(y, bias)?;
    let y = gelu(&mut b, y)?;
    b.0.set_outputs(vec![y]);
    Ok(b)
}

/// `x/2 (1 + erf(x/√2))`.
fn gelu(b: &mut Builder, x: NodeId) -> Built {
    let inner = b.scale(x, std::f64::consts::FRAC_1_SQRT_2)?;
    let erf = b.unary(UnaryOp::Erf, inner)?;
    let gate = b.shift(erf, 1.0)?;
    let half = b.scale(x, 0.5)?;
    b.mul(half, gate)
}

fn gelu_of(rows: usize, width: usize) -> Built<Builder> {
    let mut b = Builder::new();
    let x = b.input(0, &[rows, width])?;
    let y = gelu(&mut b, x)?;
    b.0.set_outputs(vec![y]);
    Ok(b)
}

fn softmax(rows: usize, width: usize) -> Built<Builder> {
    let mut b = Builder::new();
    let x = b.input(0, &[rows, width])?;
    let max = b.along(ReduceOp::Max, x)?;
    let shifted = b.sub(x, max)?;
    let exp = b.unary(UnaryOp::Exp, shifted)?;
    let sum = b.along(ReduceOp::Sum, exp)?;
    let y = b.div(exp, sum)?;
    b.0.set_outputs(vec![y]);
    Ok(b)
}

fn layer_norm(rows: usize, width: usize) -> Built<Builder> {
    let mut b = Builder::new();
    let (x, weight, bias) = (b.input(0, &[rows, width])?, b.input(1, &[width])?, b.input(2, &[width])?);
    let sum = b.along(ReduceOp::Sum, x)?;
    let mean = b.scale(sum, 1.0 / width as f64)?;
    let centred = b.sub(x, mean)?;
    let square = b.mul(centred, centred)?;
    let sum = b.along(ReduceOp::Sum, square)?;
    let variance = b.scale(sum, 1.0 / width as f64)?;
    let variance = b.shift(variance, 1e-5)?;
    let inverse = b.unary(UnaryOp::Rsqrt, variance)?;
    let normed = b.mul(centred, inverse)?;
    let scaled = b.mul(normed, weight)?;
    let y = b.add(scaled, bias)?;
    b.0.set_outputs(vec![y]);
    Ok(b)
}

/// One update of `n` weights: parameter, gradient and two moments in, three of them updated in place.
fn adamw(n: usize) -> Built<Builder> {
    let mut b = Builder::new();
    let (p, g) = (b.input(0, &[n])?, b.input(1, &[n])?);
    let (m, v) = (b.input(2, &[n])?, b.input(3, &[n])?);
    let decayed = b.scale(p, 1.0 - 3e-6)?;
    let step = b.sub(g, m)?;
    let step = b.scale(step, 0.1)?;
    let m = b.add(m, step)?;
    let square = b.mul(g, g)?;
    let square = b.scale(square, 0.001)?;
    let kept = b.scale(v, 0.999)?;
    let v = b.add(kept, square)?;
    let root = b.unary(UnaryOp::Sqrt, v)?;
    let root = b.shift(root, 1e-8)?;
    let change = b.div(m, root)?;
    let change = b.scale(change, 3e-4)?;
    let p = b.binary(BinaryOp::Sub, decayed, change)?;
    b.0.set_outputs(vec![p, m, v]);
    b.0.set_donated(vec![0, 2, 3]);
    Ok(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Prepared;

    /// What is timed against each other computes the same, and the fused variant has fewer kernels.
    #[test]
    fn variants_agree_and_the_first_has_the_fewest_kernels() -> Result<(), Error> {
        let device = wgrad::devices().open("cpu")?.device;
        for case in cases()? {
            let mut known: Option<(usize, Vec<Vec<f32>>)> = None;
            for (variant, options) in &case.variants {
                let mut prepared = Prepared::new(&case, options, &device)?;
                let (kernels, outputs) = (prepared.kernels(), prepared.outputs()?);
                let Some((fewest, expected)) = &known else {
                    known = Some((kernels, outputs));
                    continue;
                };
                assert!(*fewest < kernels, "{}: {fewest} and {kernels} kernels", case.name);
                for (x, y) in expected.iter().flatten().zip(outputs.iter().flatten()) {
                    assert!((x - y).abs() <= 1e-4 * (1.0 + y.abs()), "{}, {variant}: {x} and {y}", case.name);
                }
            }
        }
        Ok(())
    }
}
