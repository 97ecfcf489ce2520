//! Printing tensors as PyTorch does.

use std::fmt::{self, Write};

use wgrad_ir::DType;

use crate::Tensor;

/// Elements beyond which only the edges of each axis are printed, and how many at each edge.
const SUMMARIZE_FROM: usize = 1000;
const EDGE: usize = 3;

impl fmt::Display for Tensor {
    /// Evaluates, reads and prints the elements with four decimals, long axes summarised; a tensor that has no value prints its
    /// error.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let elements = match self.to_f64_vec() {
            Ok(elements) => elements,
            Err(error) => return write!(f, "tensor(error: {error})"),
        };
        let summarize = elements.len() > SUMMARIZE_FROM;
        let mut cells = Vec::new();
        collect(self.shape(), &elements, summarize, &mut cells);
        let style = Style::of(self.dtype(), &cells);
        let width = cells.iter().map(|&x| style.cell(x).len()).max().unwrap_or(0);
        let mut text = String::new();
        Printer { style, width, summarize, indent: "tensor(".len() }.write(
            &mut text,
            self.shape(),
            &elements,
            0,
        )?;
        write!(f, "tensor({text}")?;
        if !matches!(self.dtype(), DType::F32 | DType::Bool) {
            write!(f, ", dtype={}", self.dtype())?;
        }
        f.write_char(')')
    }
}

/// How elements of one tensor are written.
#[derive(Clone, Copy)]
enum Style {
    Bool,
    Integer,
    /// Floats that are all whole numbers: `3.`
    Whole,
    Decimal,
    Scientific,
}

impl Style {
    fn of(dtype: DType, shown: &[f64]) -> Self {
        match dtype {
            DType::Bool => Style::Bool,
            DType::I32 | DType::U32 | DType::U8 => Style::Integer,
            DType::F64 | DType::F32 | DType::F16 | DType::BF16 => {
                let finite = || shown.iter().copied().filter(|x| x.is_finite()).map(f64::abs);
                let max = finite().fold(0.0, f64::max);
                let min = finite().filter(|&x| x > 0.0).fold(f64::INFINITY, f64::min);
                if finite().all(|x| x.fract() == 0.0) {
                    if max > 1e8 { Style::Scientific } else { Style::Whole }
                } else if max > 1e8 || min < 1e-4 || max / min > 1000.0 {
                    Style::Scientific
                } else {
                    Style::Decimal
                }
            }
        }
    }

    fn cell(self, x: f64) -> String {
        match self {
            Style::Bool => (if x != 0.0 { "True" } else { "False" }).to_owned(),
            _ if x.is_nan() => "nan".to_owned(),
            _ if x.is_infinite() => (if x > 0.0 { "inf" } else { "-inf" }).to_owned(),
            Style::Integer => format!("{x}"),
            Style::Whole => format!("{x}."),
            Style::Decimal => format!("{x:.4}"),
            Style::Scientific => {
                let text = format!("{x:.4e}");
                let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
                let (sign, digits) = match exponent.strip_prefix('-') {
                    Some(digits) => ('-', digits),
                    None => ('+', exponent),
                };
                format!("{mantissa}e{sign}{digits:0>2}")
            }
        }
    }
}

/// Positions along an axis that are printed.
fn shown(extent: usize, summarize: bool) -> impl Iterator<Item = usize> {
    let skip = summarize && extent > 2 * EDGE;
    (0..extent).filter(move |&i| !skip || i < EDGE || i >= extent - EDGE)
}

fn collect(shape: &[usize], elements: &[f64], summarize: bool, cells: &mut Vec<f64>) {
    match shape {
        [] => cells.extend(elements),
        [extent, inner @ ..] => {
            let stride = inner.iter().product::<usize>();
            for i in shown(*extent, summarize) {
                collect(inner, &elements[i * stride..(i + 1) * stride], summarize, cells);
            }
        }
    }
}

struct Printer {
    style: Style,
    width: usize,
    summarize: bool,
    indent: usize,
}

impl Printer {
    fn write(&self, out: &mut String, shape: &[usize], elements: &[f64], depth: usize) -> fmt::Result {
        let [extent, inner @ ..] = shape else {
            let cell = elements.first().map(|&x| self.style.cell(x)).unwrap_or_default();
            return if depth == 0 {
                write!(out, "{cell}")
            } else {
                write!(out, "{cell:>width$}", width = self.width)
            };
        };
        // Innermost elements share a line; rows, matrices and so on stand below each other, with blank lines between.
        let separator = if inner.is_empty() {
            ", ".to_owned()
        } else {
            format!(",{}{}", "\n".repeat(inner.len()), " ".repeat(self.indent + depth + 1))
        };
        let stride = inner.iter().product::<usize>();
        out.push('[');
        let mut before = None;
        for i in shown(*extent, self.summarize) {
            if let Some(last) = before {
                out.push_str(&separator);
                if last + 1 != i {
                    write!(out, "...{separator}")?;
                }
            }
            self.write(out, inner, &elements[i * stride..(i + 1) * stride], depth + 1)?;
            before = Some(i);
        }
        out.push(']');
        Ok(())
    }
}
