//! A row of the table.

use std::{fmt, sync::Arc};

use wgrad::tensor::DType;

use crate::{Call, Outputs, Sample};

/// How an operation is run.
pub type Run = Arc<dyn Fn(&Call) -> Outputs + Send + Sync>;

/// An operation: made by [`Row::new`], completed by the methods below.
#[derive(Clone)]
pub struct Row {
    /// PyTorch's name for it.
    pub name: &'static str,
    /// Operands and results: `x [.., in], w [out, in] → [.., out]`.
    pub shapes: &'static str,
    /// What its main operands may hold.
    pub dtypes: Dtypes,
    /// Why it has no gradient; `None` where it has one.
    pub no_gradient: Option<&'static str>,
    /// Why it does not run on a GPU; `None` where it does.
    pub cpu_only: Option<&'static str>,
    /// Entries of the reference data that it answers for, or has a part in.
    pub entries: Vec<Entry>,
    /// Inputs on which it is tried.
    pub samples: Vec<Sample>,
    /// Largest error of a GPU in f32 against the CPU, relative to the largest expected magnitude and 1.
    pub gpu_tolerance: f64,
    /// Largest error of results in a 16-bit dtype against f32 on the same rounded inputs, in units of that dtype's epsilon
    /// times the largest expected magnitude and 1.
    pub half_tolerance: f64,
    /// Largest error of gradients against central differences in f64, relative to the larger of the magnitude and 1.
    pub difference_tolerance: f64,
    run: Run,
}

/// An entry of the reference data.
#[derive(Clone)]
pub struct Entry {
    /// Its name there.
    pub name: &'static str,
    /// What answers for it; `None` where the entry holds several operations and another row answers.
    pub run: Option<Run>,
}

/// Which element types an operation's main operands may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dtypes {
    /// Floating-point numbers.
    Floats,
    /// Floating-point numbers and `i32`.
    Signed,
    /// Floating-point numbers and integers.
    Numbers,
    /// All.
    Any,
    /// Integers.
    Ints,
    /// Truth values.
    Bools,
}

impl Dtypes {
    /// The dtypes themselves.
    pub fn list(self) -> &'static [DType] {
        match self {
            Dtypes::Floats => &[DType::F32, DType::F64],
            Dtypes::Signed => &[DType::F32, DType::F64, DType::I32],
            Dtypes::Numbers => &[DType::F32, DType::F64, DType::I32, DType::U32],
            Dtypes::Any => &[DType::F32, DType::F64, DType::I32, DType::U32, DType::Bool],
            Dtypes::Ints => &[DType::I32, DType::U32],
            Dtypes::Bools => &[DType::Bool],
        }
    }
}

impl Row {
    /// An operation on floats that has a gradient, without samples yet.
    pub fn new<O: Into<Outputs>>(
        name: &'static str,
        run: impl Fn(&Call) -> O + Send + Sync + 'static,
    ) -> Self {
        Row {
            name,
            shapes: "[..] → [..]",
            dtypes: Dtypes::Floats,
            no_gradient: None,
            cpu_only: None,
            entries: Vec::new(),
            samples: Vec::new(),
            gpu_tolerance: 2e-5,
            half_tolerance: 8.0,
            difference_tolerance: 1e-6,
            run: erase(run),
        }
    }

    /// Operands and results, for the documentation.
    pub fn shapes(mut self, shapes: &'static str) -> Self {
        self.shapes = shapes;
        self
    }

    /// What the main operands may hold.
    pub fn dtypes(mut self, dtypes: Dtypes) -> Self {
        self.dtypes = dtypes;
        self
    }

    /// Without a gradient, for a reason in a few words.
    pub fn no_gradient(mut self, why: &'static str) -> Self {
        self.no_gradient = Some(why);
        self
    }

    /// Not on GPUs, for a reason in a few words.
    pub fn cpu_only(mut self, why: &'static str) -> Self {
        self.cpu_only = Some(why);
        self
    }

    /// Answers for these entries of the reference data as it is.
    pub fn entries(mut self, names: &[&'static str]) -> Self {
        self.entries.extend(names.iter().map(|name| Entry { name, run: Some(self.run.clone()) }));
        self
    }

    /// Answers for an entry of the reference data whose inputs or attributes differ from the row's own.
    pub fn entry_by<O: Into<Outputs>>(
        mut self,
        name: &'static str,
        run: impl Fn(&Call) -> O + Send + Sync + 'static,
    ) -> Self {
        self.entries.push(Entry { name, run: Some(erase(run)) });
        self
    }

    /// Has a part in entries for which other rows answer.
    pub fn part_of(mut self, names: &[&'static str]) -> Self {
        self.entries.extend(names.iter().map(|name| Entry { name, run: None }));
        self
    }

    /// Adds an input to be tried on.
    pub fn sample(mut self, sample: impl Into<Sample>) -> Self {
        self.samples.push(sample.into());
        self
    }

    /// Adds several.
    pub fn samples<S: Into<Sample>>(mut self, samples: impl IntoIterator<Item = S>) -> Self {
        self.samples.extend(samples.into_iter().map(Into::into));
        self
    }

    /// Another tolerance for GPUs; the reason stands beside the call.
    pub fn gpu_tolerance(mut self, tolerance: f64) -> Self {
        self.gpu_tolerance = tolerance;
        self
    }

    /// Another tolerance for 16-bit dtypes; the reason stands beside the call.
    pub fn half_tolerance(mut self, tolerance: f64) -> Self {
        self.half_tolerance = tolerance;
        self
    }

    /// Another tolerance for finite differences; the reason stands beside the call.
    pub fn difference_tolerance(mut self, tolerance: f64) -> Self {
        self.difference_tolerance = tolerance;
        self
    }

    /// Runs it. Results carry their errors; see also [`Call::fault`].
    pub fn run(&self, call: &Call) -> Vec<wgrad::tensor::Tensor> {
        (self.run)(call).0
    }
}

fn erase<O: Into<Outputs>>(run: impl Fn(&Call) -> O + Send + Sync + 'static) -> Run {
    Arc::new(move |call| run(call).into())
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Row")
            .field("name", &self.name)
            .field("samples", &self.samples)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("name", &self.name).finish_non_exhaustive()
    }
}
