//! The lazy tensor: what it is made of, and how operations append to it.

use std::{
    fmt,
    panic::Location,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use smallvec::SmallVec;
use wgrad_ir::{DType, IrError, Literal, Op, Shape};
use wgrad_runtime::{Buffer, DeviceHandle};

use crate::{TensorError, elements::Elements};

/// An n-dimensional array that knows how it is computed. Cloning shares it.
///
/// A tensor is a leaf (host data that was uploaded), a scalar parameter, or an operation on other tensors; it is evaluated at
/// most once, when its elements are first needed ([`eval`](crate::eval), [`Tensor::to_vec`]). It keeps its operands as long
/// as it lives, so that gradients can be taken through evaluated tensors; [`Tensor::to_leaf`] lets go of them.
#[derive(Clone)]
pub struct Tensor(pub(crate) Arc<Node>);

/// What a tensor handle points to.
pub(crate) struct Node {
    /// Unique in the process; the key of traces.
    pub(crate) id: u64,
    pub(crate) source: Source,
    pub(crate) shape: Shape,
    pub(crate) dtype: DType,
    pub(crate) device: DeviceHandle,
    /// The elements, once evaluated (from the start for leaves, but for the operands of a function that is being traced).
    pub(crate) elements: Elements,
    /// Bounds of all elements where the host knows them: leaves of integers, and movements of these.
    pub(crate) range: Option<(i64, i64)>,
    /// What is computed in the same program as this: see [`Tensor::alongside`].
    pub(crate) companion: Option<Tensor>,
    /// For what a function's body computed alongside its result: what the call gives for it.
    pub(crate) outside: OnceLock<Tensor>,
    label: Mutex<Option<Arc<str>>>,
}

/// Where a tensor's elements come from.
pub(crate) enum Source {
    /// Uploaded.
    Leaf,
    /// A scalar parameter of the programs in which it occurs.
    Scalar(Literal),
    /// Computed.
    Op(Op, SmallVec<[Tensor; 3]>),
    /// Nowhere: an operation was called wrongly.
    Error(TensorError),
}

impl Tensor {
    pub(crate) fn new(
        source: Source,
        shape: Shape,
        dtype: DType,
        device: DeviceHandle,
        range: Option<(i64, i64)>,
    ) -> Self {
        Tensor::with_elements(source, Elements::default(), shape, dtype, device, range)
    }

    fn with_elements(
        source: Source,
        elements: Elements,
        shape: Shape,
        dtype: DType,
        device: DeviceHandle,
        range: Option<(i64, i64)>,
    ) -> Self {
        Tensor(Arc::new(Node {
            id: next_id(),
            source,
            shape,
            dtype,
            device,
            elements,
            range,
            companion: None,
            outside: OnceLock::new(),
            label: Mutex::new(None),
        }))
    }

    /// The same tensor; whenever an evaluation computes it, or anything from it, the program computes `other` too. So what follows
    /// from a pass besides its result (the statistics of a batch norm) is not lost, and costs no pass of its own.
    ///
    /// Both must be on one device. An error that `other` carries is one of the result, too.
    #[track_caller]
    #[must_use]
    pub fn alongside(&self, other: &Tensor) -> Tensor {
        if let Some(faulty) = [self, other].into_iter().find(|t| t.error().is_some()) {
            return faulty.clone();
        }
        if self.device().uid() != other.device().uid() {
            return self.fail(
                "alongside",
                format!("{} and {} are on two devices", self.describe(), other.describe()),
            );
        }
        let same = Op::Reshape(self.shape().clone());
        Tensor(Arc::new(Node {
            id: next_id(),
            source: Source::Op(same, [self.clone()].into_iter().collect()),
            shape: self.shape().clone(),
            dtype: self.dtype(),
            device: self.device().clone(),
            elements: Elements::default(),
            range: self.int_range(),
            companion: Some(other.clone()),
            outside: OnceLock::new(),
            label: Mutex::new(None),
        }))
    }

    /// What a call gives for this tensor, if it was computed [alongside](Tensor::alongside) the result of a function's body or in a
    /// [`checkpoint`](crate::checkpoint): a handle from inside has no elements of its own.
    pub fn outside(&self) -> Option<Tensor> {
        let mut found = self.0.outside.get()?;
        while let Some(further) = found.0.outside.get() {
            found = further;
        }
        Some(found.clone())
    }

    /// A tensor without history whose elements are in `buffer`.
    pub(crate) fn leaf(
        buffer: Buffer,
        shape: Shape,
        dtype: DType,
        device: DeviceHandle,
        range: Option<(i64, i64)>,
    ) -> Self {
        Tensor::with_elements(Source::Leaf, Elements::ready(buffer), shape, dtype, device, range)
    }

    /// A tensor that carries an error.
    pub(crate) fn faulty(error: TensorError, dtype: DType, device: DeviceHandle) -> Self {
        Tensor::new(Source::Error(error), Shape::scalar(), dtype, device, None)
    }

    /// A tensor that says that `op` was called wrongly on `self`; passes on the error that `self` carries, if any.
    #[track_caller]
    pub(crate) fn fail(&self, op: &'static str, message: impl Into<String>) -> Tensor {
        if self.error().is_some() {
            return self.clone();
        }
        let error = TensorError::Op { op, message: message.into(), location: Location::caller() };
        Tensor::faulty(error, self.dtype(), self.device().clone())
    }

    /// Appends a primitive in the name of the method `name`. An operand's error, operands on different devices and operands
    /// that do not fit give a faulty tensor.
    #[track_caller]
    pub(crate) fn apply(name: &'static str, op: Op, operands: &[&Tensor]) -> Tensor {
        if let Some(faulty) = operands.iter().find(|t| t.error().is_some()) {
            return (*faulty).clone();
        }
        let Some(first) = operands.first() else {
            let error =
                TensorError::Op { op: name, message: "needs operands".into(), location: Location::caller() };
            return Tensor::faulty(error, DType::F32, crate::nowhere::nowhere().clone());
        };
        if let Some(other) = operands.iter().find(|t| t.device().uid() != first.device().uid()) {
            return first.fail(
                name,
                format!(
                    "operands are on different devices: {} on {} and {} on {}; move one with `to_device`",
                    first.describe(),
                    first.device().info().id,
                    other.describe(),
                    other.device().info().id
                ),
            );
        }
        let shapes: SmallVec<[(&Shape, DType); 3]> =
            operands.iter().map(|t| (t.shape(), t.dtype())).collect();
        match op.infer(&shapes) {
            Ok((shape, dtype)) => {
                let range = range_after(&op, operands, dtype);
                let operands: SmallVec<[Tensor; 3]> = operands.iter().map(|&t| t.clone()).collect();
                Tensor::new(Source::Op(op, operands), shape, dtype, first.device().clone(), range)
            }
            Err(IrError::Invalid { message, .. }) => first.fail(name, message),
            Err(error) => first.fail(name, error.to_string()),
        }
    }

    /// A tensor that carries the error `[op] message`, of this one's dtype and device: how layers outside of this crate refuse
    /// what they cannot do, in line with the operations here. An error that this tensor already carries takes precedence.
    #[track_caller]
    #[must_use]
    pub fn invalid(&self, op: &'static str, message: impl Into<String>) -> Tensor {
        self.fail(op, message)
    }

    /// The same tensor. An error of an operation that none of `operands` carries is said to have happened where this is called, and not
    /// inside of whatever computed the tensor from them: for functions whose closures would have their own lines named.
    #[track_caller]
    #[must_use]
    pub fn blame_caller(&self, operands: &[&Tensor]) -> Tensor {
        match self.error() {
            Some(TensorError::Op { op, message, .. }) if operands.iter().all(|t| t.error().is_none()) => {
                let error = TensorError::Op { op, message: message.clone(), location: Location::caller() };
                Tensor::faulty(error, self.dtype(), self.device().clone())
            }
            _ => self.clone(),
        }
    }

    /// Smallest and largest element of an integer tensor, where the host knows bounds for them: of data that came from
    /// it, and of movements and selections of such data. Not necessarily attained.
    pub fn int_range(&self) -> Option<(i64, i64)> {
        self.0.range
    }

    /// The extents, outermost first. `[]` on a tensor that carries an error.
    pub fn shape(&self) -> &Shape {
        &self.0.shape
    }

    /// The extents as an array: `let [batch, time, width] = x.dims();`. `[1; N]` where the tensor carries an error or does not
    /// have `N` dimensions, so that shape arithmetic in a model goes on until evaluation reports the error.
    pub fn dims<const N: usize>(&self) -> [usize; N] {
        self.shape().dims().try_into().unwrap_or([1; N])
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape().rank()
    }

    /// Number of elements (1 for a scalar).
    pub fn elements(&self) -> usize {
        self.shape().elements()
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.0.dtype
    }

    /// The device on which it is computed.
    pub fn device(&self) -> &DeviceHandle {
        &self.0.device
    }

    /// The error that it carries, from itself or from an operand.
    pub fn error(&self) -> Option<&TensorError> {
        match &self.0.source {
            Source::Error(error) => Some(error),
            _ => None,
        }
    }

    /// `Err` where the tensor carries an error.
    ///
    /// # Errors
    /// The carried one.
    pub fn check(&self) -> Result<(), TensorError> {
        self.error().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Names the tensor, for messages such as that it is too large for a device. Handles share the name; the last one given
    /// counts.
    #[must_use]
    pub fn named(&self, name: impl AsRef<str>) -> Tensor {
        *self.0.label.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::from(name.as_ref()));
        self.clone()
    }

    /// The name given by [`Tensor::named`].
    pub fn name(&self) -> Option<Arc<str>> {
        self.0.label.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the elements have been computed and are kept (leaves: from the start).
    pub fn is_realized(&self) -> bool {
        self.0.elements.is_ready()
    }

    /// Whether both are handles to one tensor (not merely equal in value).
    pub fn is_same(&self, other: &Tensor) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Name, dtype and shape for messages: `` `wte` f32[65, 128]``.
    pub(crate) fn describe(&self) -> String {
        let name = self.name().map(|n| format!("`{n}` ")).unwrap_or_default();
        format!("{name}{}{}", self.dtype(), self.shape())
    }
}

/// A number that no other tensor has; later ones are larger.
pub(crate) fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// What the host knows of a result's integers.
fn range_after(op: &Op, operands: &[&Tensor], dtype: DType) -> Option<(i64, i64)> {
    if !dtype.is_int() {
        return None;
    }
    let union = |a: (i64, i64), b: (i64, i64)| (a.0.min(b.0), a.1.max(b.1));
    let of = |i: usize| operands.get(i).and_then(|t| t.0.range);
    match op {
        Op::Const(value) => Some((value.as_f64() as i64, value.as_f64() as i64)),
        Op::Iota { len } => (*len > 0).then(|| (0, *len as i64 - 1)),
        Op::Reshape(_)
        | Op::Permute(_)
        | Op::Expand(_)
        | Op::Slice { .. }
        | Op::Flip(_)
        | Op::Window { .. }
        | Op::StopGradient
        | Op::Gather => of(0),
        Op::Cast(to) => of(0).filter(|&(low, high)| match to {
            DType::I32 => i32::try_from(low).is_ok() && i32::try_from(high).is_ok(),
            DType::U8 => u8::try_from(low).is_ok() && u8::try_from(high).is_ok(),
            _ => u32::try_from(low).is_ok() && u32::try_from(high).is_ok(),
        }),
        Op::Pad { fill, .. } => of(0).map(|r| union(r, (fill.as_f64() as i64, fill.as_f64() as i64))),
        Op::Concat { .. } => operands.iter().map(|t| t.0.range).reduce(|a, b| Some(union(a?, b?))).flatten(),
        Op::Select => of(1).zip(of(2)).map(|(a, b)| union(a, b)),
        _ => None,
    }
}

impl fmt::Debug for Tensor {
    /// Dtype, shape and origin; evaluates nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match &self.0.source {
            Source::Leaf => "leaf".to_owned(),
            Source::Scalar(value) => format!("scalar {value}"),
            Source::Op(op, _) => op.name().to_owned(),
            Source::Error(error) => format!("error: {error}"),
        };
        write!(f, "Tensor({}, {source})", self.describe())
    }
}

impl Drop for Node {
    /// Drops operands that only this tensor held one after the other, so that long histories do not overflow the stack.
    fn drop(&mut self) {
        let Source::Op(_, operands) = &mut self.source else { return };
        let mut pending: Vec<Tensor> = operands.drain(..).chain(self.companion.take()).collect();
        while let Some(tensor) = pending.pop() {
            if let Some(mut node) = Arc::into_inner(tensor.0)
                && let Source::Op(_, operands) = &mut node.source
            {
                pending.extend(operands.drain(..));
                pending.extend(node.companion.take());
            }
        }
    }
}
