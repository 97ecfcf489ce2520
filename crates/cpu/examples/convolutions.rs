//! Prints the GFLOP/s that convolutions and their gradients reach in the CPU runtime on this machine.
//!
//! `cargo run --release -p wgrad-cpu --example convolutions`

mod bench;

use std::error::Error;

use bench::{Bench, node};
use wgrad_ir::{ConvAxis, ConvKernel, ConvSpec, DType, Expr, ExprId, Kernel, Operand, Shape, Store, View};

/// Images, groups, channels and filters of a group, extent, taps and stride along two equal axes.
type Extents = (usize, usize, usize, usize, usize, usize, usize);

fn operand(arg: u32, shape: Shape, perm: [usize; 3], flip: bool) -> Operand {
    let mut strides = shape.strides();
    let mut offset = 0;
    if flip {
        for d in 3..5 {
            offset += strides[d] * (shape[d] as i64 - 1);
            strides[d] = -strides[d];
        }
    }
    let order = [perm[0], perm[1], perm[2], 3, 4];
    let view = View {
        shape: order.iter().map(|&d| shape[d]).collect(),
        strides: order.iter().map(|&d| strides[d]).collect(),
        offset,
        mask: None,
    };
    Operand { arg, view }
}

fn conv(spec: ConvSpec, x: Operand, w: Operand) -> (Kernel, Shape) {
    let result = spec.result(&x.view.shape, &w.view.shape).unwrap_or_default();
    let stores = vec![Store { arg: 0, value: ExprId(0), view: View::contiguous(result.clone()) }];
    let kernel = ConvKernel {
        spec,
        dtype: DType::F32,
        operands: [DType::F32; 2],
        x,
        w,
        exprs: vec![node(Expr::Product)],
        stores,
    };
    (Kernel::Conv(kernel), result)
}

fn axes(stride: usize, dilation: usize, before: usize, after: i64) -> [ConvAxis; 2] {
    [ConvAxis { stride, dilation, before: before as i64, after, ..ConvAxis::default() }; 2]
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut bench = Bench::new();
    let all: [(&str, Extents); 11] = [
        ("resnet 56", (8, 1, 64, 64, 56, 3, 1)),
        ("resnet 28", (8, 1, 128, 128, 28, 3, 1)),
        ("resnet 14", (8, 1, 256, 256, 14, 3, 1)),
        ("resnet 7", (8, 1, 512, 512, 7, 3, 1)),
        ("strided", (8, 1, 64, 128, 56, 3, 2)),
        ("pointwise", (8, 1, 64, 256, 56, 1, 1)),
        ("stem", (8, 1, 3, 64, 224, 7, 2)),
        ("fashion 1", (128, 1, 1, 16, 28, 3, 1)),
        ("fashion 2", (128, 1, 16, 32, 14, 3, 1)),
        ("depthwise", (8, 64, 1, 1, 56, 3, 1)),
        ("depthwise strided", (8, 64, 1, 1, 56, 3, 2)),
    ];
    for (name, (n, g, c, o, extent, taps, stride)) in all {
        let before = taps / 2;
        let outputs = (extent + 2 * before - taps) / stride + 1;
        let (x, w) = (Shape::from([n, g, c, extent, extent]), Shape::from([g, o, c, taps, taps]));
        let y = Shape::from([n, g, o, outputs, outputs]);
        let spec = |axes: [ConvAxis; 2], by_group| ConvSpec { axes: axes.into_iter().collect(), by_group };
        let (x_at, w_at) = (operand(1, x.clone(), [0, 1, 2], false), operand(2, w.clone(), [0, 1, 2], false));
        let (kernel, result) = conv(spec(axes(stride, 1, before, before as i64), false), x_at, w_at);
        bench.flops(&format!("{name} forward"), kernel, &[&result], &[&x, &w])?;
        if stride == 1 {
            let (y_at, w_at) =
                (operand(1, y.clone(), [0, 1, 2], false), operand(2, w.clone(), [0, 2, 1], true));
            let (kernel, result) =
                conv(spec(axes(1, 1, taps - 1 - before, before as i64), false), y_at, w_at);
            bench.flops(&format!("{name} input gradient"), kernel, &[&result], &[&y, &w])?;
        }
        let after = ((outputs - 1) * stride + taps) as i64 - (extent + before) as i64;
        let (x_at, y_at) = (operand(1, x.clone(), [2, 1, 0], false), operand(2, y.clone(), [1, 2, 0], false));
        let (kernel, result) = conv(spec(axes(1, stride, before, after), true), x_at, y_at);
        bench.flops(&format!("{name} filter gradient"), kernel, &[&result], &[&x, &y])?;
    }
    Ok(())
}
