//! Conv kernels: a way for each kind of shape.

use wgrad_ir::{ConvKernel, DType};

use crate::{
    after::After, args::Args, direct::Direct, dots::Dots, filters::FilterGrad, padded::Spatial, threads,
    unfolded::Unfolded,
};

/// A Conv kernel, compiled.
#[derive(Debug)]
pub(crate) struct ConvPlan {
    dtype: DType,
    /// Arguments of operand and filters.
    operands: (u32, u32),
    way: Way,
    after: After,
    cost: f64,
}

#[derive(Debug)]
enum Way {
    /// There are no results.
    Nothing,
    /// Along the outputs, from padded copies.
    Direct(Direct),
    /// Gradients of filters.
    Filters(FilterGrad),
    /// Gradients of few filters at a time.
    Dots(Dots),
    /// Any other one.
    Unfolded(Unfolded),
}

impl ConvPlan {
    pub(crate) fn new(kernel: &ConvKernel) -> ConvPlan {
        let (x, w) = (&kernel.x.view, &kernel.w.view);
        let result = kernel.result();
        let axes: Vec<_> =
            (3..x.shape.rank()).map(|d| (x.shape[d], x.strides[d], w.shape[d], result[d])).collect();
        let after = After::new(kernel.is_plain(), &kernel.exprs, &kernel.stores);
        let (size, terms) = (result.elements() as f64, kernel.terms() as f64);
        let rate = if kernel.dtype == DType::F64 { 40.0 } else { 90.0 };
        let cost = 2.0 * size * terms / rate + 0.5 * x.shape.elements() as f64 + size * (0.2 + after.cost());
        let spatial = Spatial::new(&kernel.spec.axes, &axes);
        let way = match kernel.dtype {
            _ if result.elements() == 0 => Way::Nothing,
            DType::F32 if terms == 0.0 => Way::Unfolded(Unfolded::new(kernel, &axes)),
            DType::F32 if !kernel.spec.by_group => {
                Way::Direct(Direct::new(kernel, spatial, threads::tasks_for(cost)))
            }
            DType::F32 if FilterGrad::pays(kernel, &spatial) => {
                Way::Filters(FilterGrad::new(kernel, spatial))
            }
            DType::F32 if Dots::pays(kernel) => Way::Dots(Dots::new(kernel, spatial)),
            _ => Way::Unfolded(Unfolded::new(kernel, &axes)),
        };
        ConvPlan { dtype: kernel.dtype, operands: (kernel.x.arg, kernel.w.arg), way, after, cost }
    }

    /// Nanoseconds on one core, roughly.
    pub(crate) fn cost(&self) -> f64 {
        self.cost
    }

    pub(crate) fn run(&self, args: &Args<'_>) {
        let (operands, after, tasks) = (self.operands, &self.after, threads::tasks_for(self.cost));
        match &self.way {
            Way::Nothing => {}
            Way::Direct(way) => way.run(args, operands, after, tasks),
            Way::Filters(way) => way.run(args, operands, after, tasks),
            Way::Dots(way) => way.run(args, operands, after, tasks),
            Way::Unfolded(way) if self.dtype == DType::F64 => way.run(args, operands, after, tasks, 1.0f64),
            // `Op::Conv` takes floats only, and halves are widened before.
            Way::Unfolded(way) => way.run(args, operands, after, tasks, 1.0f32),
        }
    }
}
