//! Flat arenas: the parameters of a group end to end in one tensor, and so are their gradients and states.
//!
//! A parameter is a slice of its arena. The compiler reads an aligned slice of an input where it lies and writes gradients where
//! their concatenation wants them, so that an update is one kernel for the whole arena. Rules that need a parameter as a whole
//! get *shaped* arenas: of one parameter each, with states of whatever shapes the rule asks for.

use wgrad_ir::Arg;
use wgrad_nn::Param;
use wgrad_runtime::DeviceError;
use wgrad_tensor::{Shape, Tensor, TensorError, eval};

/// Elements that parts start at multiples of: 32-bit and wider ones are aligned there.
pub(crate) const STRIDE: usize = Arg::ALIGNMENT as usize / size_of::<f32>();

/// No arena is longer than this, if it has more than one part: so long a tensor gains nothing by growing.
const MAX_BYTES: u64 = 1 << 30;

/// Parameters of one group and dtype that have been updated together ever since, and all that is kept for them.
#[derive(Debug)]
pub(crate) struct Arena {
    /// The group of the parameters.
    pub(crate) group: usize,
    /// Updates that they have had.
    pub(crate) steps: u64,
    /// The parameters, in order, with gaps of zeros between them.
    pub(crate) parts: Vec<Part>,
    /// Their values: a leaf of rank 1.
    pub(crate) value: Tensor,
    /// What the rule keeps, each laid out as `value`, or in its own shape. `None` before the first update.
    pub(crate) state: Option<Vec<Tensor>>,
    /// Gradients gathered so far, laid out as `value`.
    pub(crate) sum: Option<Tensor>,
    /// Whether the rule sees the parameter's shape; there is one part then.
    shaped: bool,
    name: String,
}

/// Names and shapes of what the rule of a group keeps for a tensor of a shape.
pub(crate) type States<'a> = &'a dyn Fn(usize, &Shape) -> Vec<(&'static str, Shape)>;

/// One parameter of an arena.
#[derive(Debug)]
pub(crate) struct Part {
    /// The parameter's number among all of the optimizer's.
    pub(crate) index: usize,
    pub(crate) name: String,
    pub(crate) param: Param,
    /// The slice that the parameter's cell holds, unless somebody has set another value.
    pub(crate) bound: Tensor,
    shape: Shape,
    offset: usize,
}

/// A parameter that is to become part of an arena.
pub(crate) struct Member {
    pub(crate) group: usize,
    pub(crate) steps: u64,
    pub(crate) index: usize,
    pub(crate) name: String,
    pub(crate) param: Param,
    pub(crate) value: Tensor,
    pub(crate) state: Option<Vec<Tensor>>,
    pub(crate) sum: Option<Tensor>,
    /// Whether it needs an arena of its own.
    pub(crate) shaped: bool,
    /// Whether it takes part in the step that needs the arena; those that do not are laid elsewhere.
    pub(crate) used: bool,
}

impl Part {
    /// This part of a tensor that is laid out as the arena, in the parameter's shape.
    pub(crate) fn of(&self, flat: &Tensor) -> Tensor {
        flat.narrow(0, self.offset, self.shape.elements()).reshape(&self.shape)
    }

    /// Whether the parameter holds what the optimizer put there.
    fn is_current(&self) -> bool {
        self.param.tensor().is_same(&self.bound)
    }
}

impl Arena {
    /// Whether all parameters hold what the optimizer put there.
    pub(crate) fn is_current(&self) -> bool {
        self.parts.iter().all(Part::is_current)
    }

    /// Whether every part is frozen: a step that splits mixed arenas finds all or none so.
    pub(crate) fn is_frozen(&self) -> bool {
        self.parts.iter().all(|part| part.param.is_frozen())
    }

    /// The shape in which the rule sees values.
    pub(crate) fn shape(&self) -> &Shape {
        match self.parts.first() {
            Some(part) if self.shaped => &part.shape,
            _ => self.value.shape(),
        }
    }

    /// What the rule keeps for one part, in the part's shape or its own.
    pub(crate) fn kept(&self, part: &Part, state: &Tensor) -> Tensor {
        if self.shaped { state.clone() } else { part.of(state) }
    }

    /// A tensor of the arena's layout, each part of which is replaced by a function of the parameter and itself, both in the
    /// parameter's shape.
    pub(crate) fn map_parts(&self, flat: &Tensor, map: impl Fn(&Tensor, &Tensor) -> Tensor) -> Tensor {
        let one = |part: &Part| map(&part.of(&self.value), &part.of(flat)).reshape([part.shape.elements()]);
        join(self.parts.iter().map(one))
    }

    /// Takes new values of the arena's layout, computed, and lets the parameters be slices of them.
    pub(crate) fn put(&mut self, value: &Tensor) {
        self.value = value.detach_realized().named(&self.name);
        for part in &mut self.parts {
            part.bound = part.of(&self.value).named(&part.name);
        }
        self.install();
    }

    /// Lets the parameters hold their parts.
    pub(crate) fn install(&self) {
        for part in &self.parts {
            part.param.set(part.bound.clone());
        }
    }

    /// Takes new states, computed.
    pub(crate) fn put_state(&mut self, states: States<'_>, state: &[Tensor]) {
        let leaf = |((name, _), tensor): (&(&str, Shape), &Tensor)| {
            tensor.detach_realized().named(format!("{}.{name}", self.name))
        };
        let names = states(self.group, self.shape());
        self.state = Some(names.iter().zip(state).map(leaf).collect());
    }

    /// The gradients of this step and those gathered so far as one tensor; `None` where there are none. `gradients` are numbered
    /// as the optimizer's parameters are.
    pub(crate) fn gradient(&self, gradients: &[Option<Tensor>]) -> Option<Tensor> {
        if self.is_frozen() {
            return None;
        }
        let new = self.parts.iter().any(|part| gradients[part.index].is_some()).then(|| {
            let flat = |part: &Part| {
                let len = part.shape.elements();
                let gradient = gradients[part.index].as_ref().map(|gradient| gradient.reshape([len]));
                gradient.unwrap_or_else(|| Tensor::zeros([len], self.value.dtype(), self.value.device()))
            };
            join(self.parts.iter().map(flat))
        });
        match (&self.sum, new) {
            (Some(sum), Some(new)) => Some(sum.add(new)),
            (sum, new) => new.or_else(|| sum.clone()),
        }
    }

    /// The parts with all that is kept for them, to be laid out anew; a sentence for each whose value does not fit what is kept.
    pub(crate) fn members(&self, used: impl Fn(&Part) -> bool) -> Vec<Result<Member, String>> {
        let member = |part: &Part| {
            let value = part.param.tensor();
            let fits = value.shape() == &part.shape && value.dtype() == self.value.dtype();
            if !fits && (self.steps > 0 || self.sum.is_some()) {
                let (old, new) = (self.value.dtype(), value.dtype());
                let (was, is) = (&part.shape, value.shape());
                return Err(format!(
                    "`{}` was {old}{was} when it was updated, and is {new}{is} now",
                    part.name
                ));
            }
            let moved = |tensor: Tensor| tensor.to_device(value.device());
            let kept = |state: &Tensor| moved(self.kept(part, state));
            Ok(Member {
                group: self.group,
                steps: self.steps,
                index: part.index,
                name: part.name.clone(),
                param: part.param.clone(),
                state: self.state.as_ref().filter(|_| fits).map(|state| state.iter().map(kept).collect()),
                sum: self.sum.as_ref().map(|sum| moved(part.of(sum))),
                shaped: self.shaped,
                used: used(part),
                value,
            })
        };
        self.parts.iter().map(member).collect()
    }
}

/// Lays parameters out in as few arenas as their groups, dtypes, histories and the devices' limits allow, in order, and copies
/// values, states and gathered gradients there, all in one program. The parameters' cells stay as they are until
/// [`Arena::install`].
///
/// # Errors
/// A value cannot be computed, or there is not enough memory.
pub(crate) fn build(mut members: Vec<Member>, states: States<'_>) -> Result<Vec<Arena>, TensorError> {
    members.sort_by_key(|m| m.index);
    let mut chunks: Vec<Vec<Member>> = Vec::new();
    for member in members {
        // Only the last of the arenas that it could join has room.
        match chunks.iter_mut().rev().find(|c| c.first().is_some_and(|first| alike(first, &member))) {
            Some(chunk) if fits(chunk, &member) => chunk.push(member),
            _ => chunks.push(vec![member]),
        }
    }
    let mut arenas: Vec<Arena> = chunks.into_iter().filter_map(lay_out).collect();
    let wanted: Vec<&Tensor> = arenas.iter().flat_map(tensors).collect();
    eval(&wanted).map_err(|error| with_name(error, &arenas))?;
    for arena in &mut arenas {
        arena.value = arena.value.to_leaf()?.named(&arena.name);
        for part in &mut arena.parts {
            part.bound = part.of(&arena.value).named(&part.name);
        }
        if let Some(state) = arena.state.take() {
            let state = state.iter().map(Tensor::to_leaf).collect::<Result<Vec<_>, _>>()?;
            arena.put_state(states, &state);
        }
        arena.sum = arena.sum.as_ref().map(Tensor::to_leaf).transpose()?;
    }
    Ok(arenas)
}

/// Says which parameter is beyond a device's limit: only one that has an arena of its own can be.
pub(crate) fn with_name(mut error: TensorError, arenas: &[Arena]) -> TensorError {
    if let TensorError::Device(DeviceError::TooLarge { tensor, buffer: Some(_), bytes, .. }) = &mut error {
        let stored =
            |value: &Tensor| (value.elements() * value.device().caps().storage_bytes(value.dtype())) as u64;
        if let Some(arena) = arenas.iter().find(|arena| stored(&arena.value) == *bytes) {
            *tensor = format!("`{}`", arena.name);
        }
    }
    error
}

/// Values, states and gathered gradients.
fn tensors(arena: &Arena) -> impl Iterator<Item = &Tensor> {
    [&arena.value].into_iter().chain(arena.state.iter().flatten()).chain(&arena.sum)
}

/// Whether two parameters may lie in one arena.
fn alike(a: &Member, b: &Member) -> bool {
    let key = |m: &Member| {
        let device = m.value.device().uid();
        (m.group, m.steps, m.used, m.value.dtype(), device, m.state.is_some(), m.sum.is_some())
    };
    !a.shaped && !b.shaped && key(a) == key(b)
}

/// Whether there is room for another parameter.
fn fits(chunk: &[Member], member: &Member) -> bool {
    let caps = member.value.device().caps();
    let limit = caps.max_binding_bytes.min(caps.max_buffer_bytes).min(MAX_BYTES);
    let start: usize = chunk.iter().map(|m| m.value.elements().next_multiple_of(STRIDE)).sum();
    let elements = start + member.value.elements();
    (elements * caps.storage_bytes(member.value.dtype())) as u64 <= limit
}

/// The arena of a chunk, not yet computed.
fn lay_out(chunk: Vec<Member>) -> Option<Arena> {
    let flat = |tensor: &Tensor| tensor.reshape([tensor.elements()]);
    for member in chunk.iter().filter(|m| m.value.name().is_none()) {
        let _ = member.value.named(&member.name);
    }
    let (first, last) = (chunk.first()?, chunk.last()?);
    let name = if chunk.len() == 1 { first.name.clone() } else { format!("{} to {}", first.name, last.name) };
    let (group, steps, shaped) = (first.group, first.steps, first.shaped);
    // One alone would stay a view of what it is copied from.
    let alone = chunk.len() == 1;
    let lay = |parts: &mut dyn Iterator<Item = Tensor>| {
        let flat = join(parts);
        if alone { flat.detach() } else { flat }
    };
    let value = lay(&mut chunk.iter().map(|m| flat(&m.value)));
    let states = first.state.as_ref().map(Vec::len);
    let state = states.map(|count| {
        let nth = |i: usize| match first.state.as_ref().and_then(|state| state.get(i)) {
            Some(own) if shaped => own.detach(),
            _ => lay(&mut chunk.iter().filter_map(|m| Some(flat(m.state.as_ref()?.get(i)?)))),
        };
        (0..count).map(nth).collect()
    });
    let sums: Option<Vec<Tensor>> = chunk.iter().map(|m| m.sum.as_ref().map(flat)).collect();
    let sum = sums.map(|sums| lay(&mut sums.into_iter()));
    let mut end = 0_usize;
    let part = |m: Member| {
        let offset = end.next_multiple_of(STRIDE);
        end = offset + m.value.elements();
        let shape = m.value.shape().clone();
        Part { index: m.index, name: m.name, param: m.param, bound: m.value, shape, offset }
    };
    let parts = chunk.into_iter().map(part).collect();
    Some(Arena { group, steps, parts, value, state, sum, shaped, name })
}

/// Flat tensors end to end, each from a multiple of [`STRIDE`] on, with zeros in between.
pub(crate) fn join(parts: impl Iterator<Item = Tensor>) -> Tensor {
    let (mut pieces, mut end): (Vec<Tensor>, usize) = (Vec::new(), 0);
    for part in parts {
        let gap = end.next_multiple_of(STRIDE) - end;
        if gap > 0 {
            pieces.push(Tensor::zeros([gap], part.dtype(), part.device()));
        }
        end += gap + part.elements();
        pieces.push(part);
    }
    Tensor::cat(&pieces.iter().collect::<Vec<_>>(), 0)
}
