//! Losses of classes.

use wgrad_tensor::{DType, Shape, Tensor};

use super::Reduction;
use crate::functional::like;

/// The mean of `-log softmax(logits)[target]`, in nats, over all positions, or over those whose target is not `ignore_index`.
///
/// `logits [.., classes]` (float), `targets [..]` (i32 class numbers). The logarithm is taken of the shifted exponentials, so that
/// large logits do not overflow, and the target's entry is selected by comparison, so that nothing is gathered or scattered in
/// either direction. Where every target is ignored the result is 0/0, NaN, as in PyTorch. Targets outside of the
/// classes are an error: one that the result carries where the host can see them, else one of its evaluation.
#[track_caller]
pub fn cross_entropy(logits: &Tensor, targets: &Tensor, ignore_index: Option<i32>) -> Tensor {
    let (dtype, device) = (logits.dtype(), logits.device());
    let [positions @ .., classes] = logits.shape().dims() else {
        return logits.invalid("cross_entropy", "expects logits [.., classes], got a scalar");
    };
    if logits.error().is_none()
        && targets.error().is_none()
        && let Some(message) = misfit(positions, *classes, targets, ignore_index)
    {
        return logits.invalid("cross_entropy", message);
    }
    let targets = &checked(targets, *classes, ignore_index);
    let zero = Tensor::constant(0.0, dtype, device);
    let targets = targets.unsqueeze(-1);
    let mut hit = targets.eq(Tensor::arange(*classes, device));
    let count = match ignore_index {
        Some(ignored) => {
            let counted = targets.ne(f64::from(ignored));
            hit = hit.logical_and(&counted);
            counted.cast(dtype).sum_all()
        }
        None => Tensor::constant(targets.elements() as f64, dtype, device),
    };
    hit.where_(&logits.log_softmax(-1), &zero).sum_all().neg().div(&count)
}

/// Why targets do not fit logits of these leading extents and classes.
pub(in crate::functional) fn misfit(
    positions: &[usize],
    classes: usize,
    targets: &Tensor,
    ignore_index: Option<i32>,
) -> Option<String> {
    if !targets.dtype().is_int() && targets.error().is_none() {
        let got = format!("{}{}", targets.dtype(), targets.shape());
        return Some(format!(
            "expects class numbers (i32) as targets, got {got}; `cross_entropy_with` takes probabilities"
        ));
    }
    if positions != targets.shape().dims() {
        let logits: Shape = positions.iter().chain([&classes]).copied().collect();
        return Some(format!(
            "expects logits [.., classes] and targets [..] of the same leading extents, got {logits} and {}",
            targets.shape()
        ));
    }
    let (low, high) = targets.int_range()?;
    // The ignored value may be the one that sticks out.
    let counts = |target: i64| ignore_index.is_none_or(|ignored| target != i64::from(ignored));
    let bad = low < 0 && counts(low) || high >= classes as i64 && counts(high);
    bad.then(|| format!("targets lie in {low}..={high}, but there are {classes} classes"))
}

/// The same targets as `i32`. Where the host does not know them all to be classes, those that count are looked up among these on
/// the device, so that one that is none is an error of the evaluation, not a position without a gradient.
#[track_caller]
pub(in crate::functional) fn checked(targets: &Tensor, classes: usize, ignore_index: Option<i32>) -> Tensor {
    let targets = targets.cast(DType::I32);
    let known = targets.int_range().is_some_and(|(low, high)| low >= 0 && high < classes as i64);
    if known || targets.error().is_some() {
        return targets;
    }
    match ignore_index {
        Some(ignored) => {
            let counted = targets.ne(f64::from(ignored));
            // A product, of whose range the host claims nothing.
            let some = targets.mul(counted.cast(DType::I32)).ensure_below(classes);
            counted.where_(&some, &targets)
        }
        None => targets.ensure_below(classes),
    }
}

/// What [`cross_entropy_with`] and [`nll_loss`] may be told besides their operands.
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropy<'a> {
    /// A factor for each class, `[classes]`. A mean is then over the sum of the targets' factors.
    pub weight: Option<&'a Tensor>,
    /// Positions with this target count for nothing.
    pub ignore_index: Option<i32>,
    /// How much of the target is spread evenly over all classes (Szegedy et al., 2015), in `[0, 1]`.
    pub label_smoothing: f64,
    /// What becomes of the positions.
    pub reduction: Reduction,
    /// The axis of the classes; 1 as in PyTorch, or -1 for the last one (the only axis of a vector in both cases).
    pub class_dim: isize,
}

impl Default for CrossEntropy<'_> {
    /// No weights, PyTorch's `ignore_index` of -100, no smoothing, the mean, classes on axis 1.
    fn default() -> Self {
        CrossEntropy {
            weight: None,
            ignore_index: Some(-100),
            label_smoothing: 0.0,
            reduction: Reduction::Mean,
            class_dim: 1,
        }
    }
}

/// `-Σ_c w_c y_c ln softmax(x)_c` with PyTorch's options. `logits [n, classes, ..]`; `targets` are class numbers `[n, ..]` (integers), or
/// probabilities of the shape of the logits (float), for which a mean is over positions.
///
/// With smoothing `s` the target `y` is `(1 - s) y + s / classes`.
#[track_caller]
pub fn cross_entropy_with(logits: &Tensor, targets: &Tensor, options: &CrossEntropy<'_>) -> Tensor {
    const NAME: &str = "cross_entropy";
    if let Some(faulty) =
        [Some(logits), Some(targets), options.weight].into_iter().flatten().find(|t| t.error().is_some())
    {
        return faulty.clone();
    }
    let classes = match Classes::new(logits, options) {
        Ok(classes) => classes,
        Err(message) => return logits.invalid(NAME, message),
    };
    let smoothing = options.label_smoothing;
    if !(0.0..=1.0).contains(&smoothing) {
        return logits.invalid(NAME, format!("expects a label_smoothing in [0, 1], got {smoothing}"));
    }
    let logs = logits.log_softmax(classes.axis as isize);
    if targets.dtype().is_float() {
        if targets.shape() != logits.shape() || targets.dtype() != logits.dtype() {
            let message = format!(
                "expects probabilities {}{}, got {}{}",
                logits.dtype(),
                logits.shape(),
                targets.dtype(),
                targets.shape()
            );
            return logits.invalid(NAME, message);
        }
        let even = like(smoothing / classes.count.max(1) as f64, logits);
        let targets = if smoothing == 0.0 {
            targets.clone()
        } else {
            targets.mul(like(1.0 - smoothing, logits)).add(even)
        };
        let terms = classes.weigh(&targets.mul(&logs));
        let loss = terms.sum(&[classes.axis as isize], false).neg();
        return options.reduction.apply(&loss);
    }
    classes.of_numbers(NAME, &logs, targets, options)
}

/// `-w_y x_y` for logarithms of probabilities `x [n, classes, ..]` and class numbers `y [n, ..]`; see [`CrossEntropy`] (smoothing does not
/// apply).
#[track_caller]
pub fn nll_loss(log_probabilities: &Tensor, targets: &Tensor, options: &CrossEntropy<'_>) -> Tensor {
    let x = log_probabilities;
    if let Some(faulty) =
        [Some(x), Some(targets), options.weight].into_iter().flatten().find(|t| t.error().is_some())
    {
        return faulty.clone();
    }
    match Classes::new(x, options) {
        Ok(classes) => {
            classes.of_numbers("nll_loss", x, targets, &CrossEntropy { label_smoothing: 0.0, ..*options })
        }
        Err(message) => x.invalid("nll_loss", message),
    }
}

/// Where the classes are.
struct Classes {
    axis: usize,
    count: usize,
    /// All extents of the logits, but 1 for the other axes.
    along: Shape,
    weight: Option<Tensor>,
}

impl Classes {
    fn new(logits: &Tensor, options: &CrossEntropy<'_>) -> Result<Classes, String> {
        let shape = logits.shape();
        let rank = shape.rank() as isize;
        let dim = if rank == 1 { 0 } else { options.class_dim };
        let axis = if dim < 0 { dim + rank } else { dim };
        if !(0..rank).contains(&axis) || !logits.dtype().is_float() {
            return Err(format!("expects floats with classes on axis {dim}, got {}{shape}", logits.dtype()));
        }
        let axis = axis as usize;
        let count = shape[axis];
        let along: Shape = (0..shape.rank()).map(|a| if a == axis { count } else { 1 }).collect();
        let weight = match options.weight {
            Some(w) if w.shape().dims() != [count] || w.dtype() != logits.dtype() => {
                return Err(format!(
                    "expects weights {}[{count}], one for each class, got {}{}",
                    logits.dtype(),
                    w.dtype(),
                    w.shape()
                ));
            }
            weight => weight.map(|w| w.reshape(along.clone())),
        };
        Ok(Classes { axis, count, along, weight })
    }

    #[track_caller]
    fn weigh(&self, x: &Tensor) -> Tensor {
        self.weight.as_ref().map_or_else(|| x.clone(), |w| x.mul(w))
    }

    #[track_caller]
    fn of_numbers(
        &self,
        name: &'static str,
        logs: &Tensor,
        targets: &Tensor,
        options: &CrossEntropy<'_>,
    ) -> Tensor {
        let axis = self.axis as isize;
        let positions: Shape =
            logs.shape().iter().enumerate().filter(|(a, _)| *a != self.axis).map(|(_, &n)| n).collect();
        if let Some(message) = misfit(positions.dims(), self.count, targets, options.ignore_index) {
            return logs.invalid(name, message);
        }
        let zero = like(0.0, logs);
        let number = Tensor::arange(self.count, logs.device()).reshape(self.along.clone());
        let targets = checked(targets, self.count, options.ignore_index).unsqueeze(axis);
        let counted = options.ignore_index.map(|ignored| targets.ne(f64::from(ignored)));
        let hit = match &counted {
            Some(counted) => targets.eq(number).logical_and(counted),
            None => targets.eq(number),
        };
        let terms = self.weigh(logs).neg();
        let of_target = hit.where_(&terms, &zero).sum(&[axis], false);
        let loss = if options.label_smoothing == 0.0 {
            of_target
        } else {
            let all = match &counted {
                Some(counted) => counted.where_(&terms, &zero),
                None => terms,
            };
            let even = like(options.label_smoothing / self.count.max(1) as f64, logs);
            let rest = like(1.0 - options.label_smoothing, logs);
            of_target.mul(rest).add(all.sum(&[axis], false).mul(even))
        };
        let count = match (&self.weight, &counted) {
            (Some(weight), _) => hit.where_(&weight.expand(hit.shape()), &zero).sum_all(),
            (None, Some(counted)) => counted.cast(logs.dtype()).sum_all(),
            (None, None) => like(positions.elements() as f64, logs),
        };
        options.reduction.apply_over(&loss, &count)
    }
}

/// The divergence `y (ln y - x)` of logarithms of probabilities `x` from probabilities `y` (0 where `y` is 0), or, with `log_target`, from
/// `e^y`: `e^y (y - x)` (Kullback and Leibler, 1951).
#[track_caller]
pub fn kl_div(log_input: &Tensor, target: &Tensor, log_target: bool, reduction: Reduction) -> Tensor {
    super::equal_shapes("kl_div", log_input, target, |x, y| {
        let loss = if log_target {
            y.exp().mul(y.sub(x))
        } else {
            let some = y.gt(like(0.0, y));
            let log = some.where_(y, &like(1.0, y)).log();
            y.mul(log).sub(y.mul(x))
        };
        reduction.apply(&loss)
    })
}

/// `Σ_{c ≠ y} w_y max(0, margin - x_y + x_c)^p / classes` (Crammer and Singer, 2001), `p` 1 or 2; `scores [n, classes]`, `targets [n]`
/// (integers), `weight [classes]`.
#[track_caller]
pub fn multi_margin_loss(
    scores: &Tensor,
    targets: &Tensor,
    p: u32,
    margin: f64,
    weight: Option<&Tensor>,
    reduction: Reduction,
) -> Tensor {
    const NAME: &str = "multi_margin_loss";
    if let Some(faulty) =
        [Some(scores), Some(targets), weight].into_iter().flatten().find(|t| t.error().is_some())
    {
        return faulty.clone();
    }
    let &[n, classes] = scores.shape().dims() else {
        return scores.invalid(NAME, format!("expects scores [n, classes], got {}", scores.shape()));
    };
    if let Some(message) = misfit(&[n], classes, targets, None) {
        return scores.invalid(NAME, message);
    }
    if !(1..=2).contains(&p) {
        return scores.invalid(NAME, format!("expects p of 1 or 2, got {p}"));
    }
    let targets = checked(targets, classes, None);
    let zero = like(0.0, scores);
    let hit = targets.unsqueeze(1).eq(Tensor::arange(classes, scores.device()));
    let pick = |x: &Tensor| hit.where_(x, &zero).sum(&[1], true);
    let short = like(margin, scores).sub(pick(scores)).add(scores).relu();
    let short = if p == 2 { short.square() } else { short };
    let terms = hit.where_(&zero, &short).sum(&[1], true).mul(like(1.0 / classes.max(1) as f64, scores));
    let terms = match weight {
        Some(w) => terms.mul(pick(&w.unsqueeze(0))),
        None => terms,
    };
    reduction.apply(&terms.squeeze(1))
}
