//! Sums of products by subscripts (Einstein's convention).

use wgrad_ir::Shape;

use crate::Tensor;

/// A subscript: a letter, or an axis that `...` stands for, counted from the last one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Label {
    Letter(char),
    Dots(usize),
}

/// A tensor whose axes have labels, each once.
struct Labelled {
    tensor: Tensor,
    labels: Vec<Label>,
}

impl Tensor {
    /// `einsum("bhqd,bhkd->bhqk", &[q, k])`: axes with one letter go together, and letters that the result lacks are summed over.
    /// `...` stands for any number of axes, which are broadcast; without `->`, the result has the letters that occur once, in
    /// alphabetical order. Operands are contracted from left to right, as matrix products wherever two share a letter.
    #[track_caller]
    pub fn einsum(equation: &str, operands: &[&Tensor]) -> Tensor {
        let Some(first) = operands.first() else {
            return Tensor::cat(&[], 0).fail("einsum", "needs operands");
        };
        if let Some(faulty) = operands.iter().find(|t| t.error().is_some()) {
            return (*faulty).clone();
        }
        match contract(equation, operands) {
            Ok(result) => result,
            Err(message) => {
                let shapes: Vec<String> = operands.iter().map(|t| t.describe()).collect();
                first.fail("einsum", format!("\"{equation}\" of {}: {message}", shapes.join(", ")))
            }
        }
    }
}

#[track_caller]
fn contract(equation: &str, operands: &[&Tensor]) -> Result<Tensor, String> {
    let equation: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (equation.as_str(), None),
    };
    let terms: Vec<&str> = left.split(',').collect();
    if terms.len() != operands.len() {
        return Err(format!("{} terms for {} operands", terms.len(), operands.len()));
    }
    let mut labels: Vec<Vec<Label>> = Vec::new();
    for (term, operand) in terms.iter().zip(operands) {
        labels.push(parse(term, operand.rank())?);
    }
    let dots =
        labels.iter().flatten().filter_map(|l| if let Label::Dots(d) = l { Some(d + 1) } else { None });
    let dots = dots.max().unwrap_or(0);
    let output = match right {
        Some(text) => parse_output(text, dots)?,
        None => implicit(&labels, dots),
    };
    for (i, label) in output.iter().enumerate() {
        if !labels.iter().flatten().any(|l| l == label) {
            return Err(format!("the result's {label:?} occurs in no operand"));
        }
        if output[..i].contains(label) {
            return Err(format!("the result names {label:?} twice"));
        }
    }
    let mut rest: Vec<Labelled> = Vec::new();
    for (operand, labels) in operands.iter().zip(labels) {
        rest.push(once(operand, labels)?);
    }
    for label in rest.iter().flat_map(|t| t.labels.clone()).collect::<Vec<_>>() {
        let mut extents: Vec<usize> =
            rest.iter().filter_map(|t| t.extent(label)).filter(|&n| n != 1).collect();
        extents.dedup();
        if extents.len() > 1 {
            return Err(format!("{label:?} is {} long here and {} there", extents[0], extents[1]));
        }
    }
    rest.reverse();
    let mut result = rest.pop().ok_or("needs operands")?;
    loop {
        // Labels that nothing needs any more are summed over before the next product.
        let needed = |l: &Label| output.contains(l) || rest.iter().any(|t| t.labels.contains(l));
        result = result.sum_out(needed);
        let Some(next) = rest.pop() else { break };
        let needed = |l: &Label| output.contains(l) || rest.iter().any(|t| t.labels.contains(l));
        let next = next.sum_out(|l| needed(l) || result.labels.contains(l));
        result = product(&result, &next, needed);
    }
    Ok(result.arrange(&output))
}

/// The labels of a term for a tensor of this rank.
fn parse(term: &str, rank: usize) -> Result<Vec<Label>, String> {
    let letters = |text: &str| -> Result<Vec<Label>, String> {
        let letter = |c: char| {
            c.is_ascii_alphabetic()
                .then_some(Label::Letter(c))
                .ok_or_else(|| format!("'{c}' is no subscript"))
        };
        text.chars().map(letter).collect()
    };
    let Some((front, back)) = term.split_once("...") else {
        let labels = letters(term)?;
        let fits = labels.len() == rank;
        return if fits { Ok(labels) } else { Err(format!("\"{term}\" does not name {rank} axes")) };
    };
    let (mut labels, back) = (letters(front)?, letters(back)?);
    let dots = rank.checked_sub(labels.len() + back.len());
    let dots = dots.ok_or_else(|| format!("\"{term}\" names more than {rank} axes"))?;
    labels.extend((0..dots).rev().map(Label::Dots));
    labels.extend(back);
    Ok(labels)
}

fn parse_output(text: &str, dots: usize) -> Result<Vec<Label>, String> {
    let letters = text.replace("...", "").chars().count();
    parse(text, if text.contains("...") { letters + dots } else { letters })
}

/// What is not written: the axes of `...`, then the letters that occur once.
fn implicit(labels: &[Vec<Label>], dots: usize) -> Vec<Label> {
    let mut output: Vec<Label> = (0..dots).rev().map(Label::Dots).collect();
    let all: Vec<Label> = labels.iter().flatten().copied().collect();
    let mut single: Vec<char> = all
        .iter()
        .filter(|l| all.iter().filter(|other| other == l).count() == 1)
        .filter_map(|l| if let Label::Letter(c) = l { Some(*c) } else { None })
        .collect();
    single.sort_unstable();
    output.extend(single.into_iter().map(Label::Letter));
    output
}

/// Repeated labels of one operand become its diagonal.
#[track_caller]
fn once(operand: &Tensor, mut labels: Vec<Label>) -> Result<Labelled, String> {
    let mut tensor = operand.clone();
    while let Some(second) = (1..labels.len()).find(|&i| labels[..i].contains(&labels[i])) {
        let label = labels[second];
        let Some(first) = labels.iter().position(|&l| l == label) else { break };
        if tensor.shape()[first] != tensor.shape()[second] {
            return Err(format!(
                "{label:?} names extents {} and {}",
                tensor.shape()[first],
                tensor.shape()[second]
            ));
        }
        tensor = tensor.diagonal(0, first as isize, second as isize);
        labels.remove(second);
        labels.remove(first);
        labels.push(label);
    }
    Ok(Labelled { tensor, labels })
}

impl Labelled {
    fn extent(&self, label: Label) -> Option<usize> {
        // A tensor that carries an error has no axes.
        let axis = self.labels.iter().position(|&l| l == label)?;
        self.tensor.shape().dims().get(axis).copied()
    }

    #[track_caller]
    fn sum_out(self, needed: impl Fn(&Label) -> bool) -> Labelled {
        let dims: Vec<isize> =
            (0..self.labels.len()).filter(|&i| !needed(&self.labels[i])).map(|i| i as isize).collect();
        if dims.is_empty() {
            return self;
        }
        Labelled {
            tensor: self.tensor.sum(&dims, false),
            labels: self.labels.into_iter().filter(needed).collect(),
        }
    }

    /// Axes in the order of `labels`, of which those that it lacks have extent 1.
    #[track_caller]
    fn arrange(&self, labels: &[Label]) -> Tensor {
        let own: Vec<usize> =
            labels.iter().filter_map(|label| self.labels.iter().position(|l| l == label)).collect();
        let shape: Shape = labels.iter().map(|&l| self.extent(l).unwrap_or(1)).collect();
        self.tensor.permute(&own).reshape(shape)
    }
}

/// The product of two, summed over the labels that are in both and not needed.
#[track_caller]
fn product(a: &Labelled, b: &Labelled, needed: impl Fn(&Label) -> bool) -> Labelled {
    let both: Vec<Label> = a.labels.iter().copied().filter(|l| b.labels.contains(l)).collect();
    let (batch, summed): (Vec<Label>, Vec<Label>) = both.into_iter().partition(|l| needed(l));
    let only = |t: &Labelled, other: &Labelled| -> Vec<Label> {
        t.labels.iter().copied().filter(|l| !other.labels.contains(l)).collect()
    };
    let (rows, columns) = (only(a, b), only(b, a));
    let labels: Vec<Label> = [batch.clone(), rows.clone(), columns.clone()].concat();
    if summed.is_empty() || !a.tensor.dtype().is_float() {
        let all: Vec<Label> = [labels.clone(), summed.clone()].concat();
        let tensor = a.arrange(&all).mul(b.arrange(&all));
        return Labelled { tensor, labels: all }.sum_out(|label| labels.contains(label));
    }
    // `[batch.., rows, summed] x [batch.., summed, columns]`; an extent of 1 in one of them is broadcast.
    let extent = |l: Label| a.extent(l).unwrap_or(1).max(b.extent(l).unwrap_or(1));
    let sized = |list: &[Label]| -> usize { list.iter().map(|&l| extent(l)).product() };
    let shape_of = |list: &[Label]| -> Shape { list.iter().map(|&l| extent(l)).collect() };
    let zero = labels.iter().chain(&summed).any(|&l| a.extent(l) == Some(0) || b.extent(l) == Some(0));
    let left: Vec<Label> = [batch.clone(), rows.clone(), summed.clone()].concat();
    let right: Vec<Label> = [batch.clone(), summed.clone(), columns.clone()].concat();
    if zero {
        let all: Vec<Label> = [labels.clone(), summed.clone()].concat();
        let tensor = a.arrange(&all).mul(b.arrange(&all));
        return Labelled { tensor, labels: all }.sum_out(|label| labels.contains(label));
    }
    let (n, m, k, c) = (sized(&batch), sized(&rows), sized(&summed), sized(&columns));
    let x = a.arrange(&left).expand(shape_of(&left)).reshape([n, m, k]);
    let y = b.arrange(&right).expand(shape_of(&right)).reshape([n, k, c]);
    Labelled { tensor: x.matmul(&y).reshape(shape_of(&labels)), labels }
}
