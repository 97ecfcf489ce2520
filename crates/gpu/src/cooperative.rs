//! Cooperative matrices: whether an adapter has those that products need, and whether they compute what they should.
//!
//! The interface is experimental, and its drivers are young. So a device tries them when it is opened: products by them must agree with
//! those of the plain kernel, within the rounding of f32 (matrices that drop bits of their operands, as TF32 does, do not). Only then they are
//! among the candidates of autotuning. They have not been run on hardware yet: no adapter at hand has them.

use std::sync::Arc;

use wgpu::{Adapter, Backend, CooperativeScalarType, Features};
use wgrad_ir::{
    Arg, BufferRef, BufferSpec, DType, Expr, ExprId, ExprNode, Kernel, MatMulKernel, Operand, OutputSource,
    OutputSpec, Program, Shape, Step, Store, View,
};
use wgrad_kernels::{Choices, MatMulVariant};
use wgrad_runtime::{Device, DeviceError, Executable};

use crate::GpuDevice;

/// The variant that an adapter's f32 matrices allow.
pub(crate) fn variant(adapter: &Adapter) -> Option<MatMulVariant> {
    let needed = Features::EXPERIMENTAL_COOPERATIVE_MATRIX | Features::SUBGROUP;
    if !adapter.features().contains(needed) {
        return None;
    }
    let f32 = |t: CooperativeScalarType| t == CooperativeScalarType::F32;
    let sizes = adapter.cooperative_matrix_properties().into_iter().filter_map(|p| {
        let square = p.m_size == p.n_size && p.n_size == p.k_size && [8, 16].contains(&p.m_size);
        (square && f32(p.ab_type) && f32(p.cr_type)).then_some(p.m_size)
    });
    let info = adapter.get_info();
    let subgroup = match info.backend {
        // The range that wgpu names there is that of all GPUs that Metal ever had; those with matrices have this size.
        Backend::Metal => Some(32),
        _ => (info.subgroup_min_size == info.subgroup_max_size).then_some(info.subgroup_min_size),
    };
    let size = sizes.max()?;
    let subgroup = subgroup.filter(|s| [16, 32, 64].contains(s))?;
    Some(MatMulVariant::Cooperative { size, subgroup })
}

/// Whether a variant gives on this device what the plain kernel gives: products whose extents fill tiles and such that do not, batched,
/// with a transposed operand, and with column sums.
///
/// # Errors
/// The plain kernel does not run. A variant that does not run does not agree.
pub(crate) fn agrees(device: &GpuDevice, variant: MatMulVariant) -> Result<bool, DeviceError> {
    for (batch, [m, n, k]) in [(1, [64, 64, 32]), (2, [70, 45, 37]), (1, [5, 130, 200])] {
        let program = Arc::new(product(batch, m, n, k));
        let prepare =
            |v| device.prepare_with(program.clone(), &Choices { matmul: Some(v), ..Choices::default() });
        let plain = prepare(MatMulVariant::Direct { rows: 1, quads: 1 })?;
        let Ok(other) = prepare(variant) else { return Ok(false) };
        if !same_results(device, &*plain, &*other)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether two programs give the same, but for roundings, from the same numbers.
fn same_results(
    device: &GpuDevice,
    plain: &dyn Executable,
    other: &dyn Executable,
) -> Result<bool, DeviceError> {
    let mut word = 7u32;
    let mut inputs = Vec::new();
    for spec in &plain.program().inputs {
        let mut next = || {
            word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // All 24 bits of a float's significand count: matrices of lower precision show.
            ((word >> 8) as f32 / 8_388_608.0 - 1.0).to_ne_bytes()
        };
        let bytes: Vec<u8> = (0..spec.shape.elements()).flat_map(|_| next()).collect();
        inputs.push(device.upload(&bytes, DType::F32)?);
    }
    let run = |executable: &dyn Executable| -> Result<Vec<f32>, DeviceError> {
        let mut all = Vec::new();
        for buffer in executable.run(inputs.clone(), &[])?.results {
            let bytes = device.read(&buffer, DType::F32)?.wait()?;
            all.extend(bytes.chunks_exact(4).map(|w| f32::from_ne_bytes([w[0], w[1], w[2], w[3]])));
        }
        Ok(all)
    };
    let want = run(plain)?;
    let Ok(got) = run(other) else { return Ok(false) };
    // Sums of at most 200 products below one: 2e-5 is what f32 may lose in them, and a tenth of what TF32 would.
    let near = |(w, g): (&f32, &f32)| (w - g).abs() <= 2e-5;
    Ok(want.len() == got.len() && want.iter().zip(&got).all(near))
}

/// `A Bᵀ` with the column sums of `Bᵀ`.
fn product(batch: usize, m: usize, n: usize, k: usize) -> Program {
    let shapes = [[batch, m, k], [batch, n, k], [batch, m, n], [batch, 1, n]].map(Shape::from);
    let bytes = |shape: &Shape| 4 * shape.elements() as u64;
    let spec = |shape: &Shape| BufferSpec { shape: shape.clone(), dtype: DType::F32, bytes: bytes(shape) };
    let [a, b, c, sums] = &shapes;
    let turned = View {
        shape: [batch, k, n].into(),
        strides: [(n * k) as i64, 1, k as i64].into_iter().collect(),
        offset: 0,
        mask: None,
    };
    let kernel = MatMulKernel {
        batch: [batch].into(),
        m,
        n,
        k,
        dtype: DType::F32,
        operands: [DType::F32; 2],
        a: Operand { arg: 0, view: View::contiguous(a.clone()) },
        b: Operand { arg: 1, view: turned },
        exprs: vec![ExprNode { expr: Expr::Product, dtype: DType::F32 }],
        stores: vec![Store { arg: 2, value: ExprId(0), view: View::contiguous(c.clone()) }],
        column_sums: Some(3),
        split: None,
    };
    let buffers = [BufferRef::Input(0), BufferRef::Input(1), BufferRef::Output(0), BufferRef::Output(1)];
    let args = buffers.into_iter().zip(&shapes);
    let args = args.map(|(buffer, shape)| Arg { buffer, offset: 0, bytes: bytes(shape) }).collect();
    let outputs = [c, sums].into_iter().enumerate().map(|(n, shape)| OutputSpec {
        source: OutputSource::Result(n as u32),
        shape: shape.clone(),
        dtype: DType::F32,
    });
    Program {
        inputs: vec![spec(a), spec(b)],
        results: vec![spec(c), spec(sums)],
        outputs: outputs.collect(),
        steps: vec![Step { kernel: Arc::new(Kernel::MatMul(kernel)), args, label: "trial".into() }],
        ..Program::default()
    }
}

#[cfg(test)]
mod tests {
    use wgrad_ir::{BinaryOp, Literal};

    use super::*;
    use crate::GpuBackend;

    fn device() -> Option<Arc<GpuDevice>> {
        let none = std::env::var("WGRAD_TEST_DEVICES").is_ok_and(|v| v == "cpu");
        (!none).then(|| GpuBackend::new().open_gpu("gpu:0").expect("an adapter"))
    }

    #[test]
    fn a_variant_that_is_right_agrees_and_one_that_cannot_run_does_not() {
        let Some(device) = device() else { return };
        assert!(agrees(&device, MatMulVariant::Tiled { block: 32 }).unwrap());
        assert!(agrees(&device, MatMulVariant::Direct { rows: 8, quads: 2 }).unwrap());
        // The generator refuses it, whatever the adapter.
        assert!(!agrees(&device, MatMulVariant::Cooperative { size: 8, subgroup: 8 }).unwrap());
    }

    #[test]
    fn a_wrong_product_is_found_out() {
        let Some(device) = device() else { return };
        let plain = product(1, 70, 45, 37);
        let changed = |change: fn(&mut MatMulKernel)| {
            let mut program = plain.clone();
            let Kernel::MatMul(kernel) = &*program.steps[0].kernel else { unreachable!("a product") };
            let mut kernel = kernel.clone();
            change(&mut kernel);
            program.steps[0].kernel = Arc::new(Kernel::MatMul(kernel));
            program
        };
        let same = |program: Program| {
            let [plain, other] = [plain.clone(), program].map(|p| device.prepare(Arc::new(p)).unwrap());
            same_results(&device, &*plain, &*other).unwrap()
        };
        assert!(same(plain.clone()));
        // The last step of k left out; the matrix stored transposed; as if operands had ten bits.
        assert!(!same(changed(|k| {
            k.k -= 1;
            k.a.view.shape = [1, k.m, k.k].into();
            k.b.view.shape = [1, k.k, k.n].into();
        })));
        assert!(!same(changed(|k| k.stores[0].view.strides = [0, 1, k.m as i64].into_iter().collect())));
        assert!(!same(changed(|k| {
            let f32 = |expr| ExprNode { expr, dtype: DType::F32 };
            k.exprs.push(f32(Expr::Const(Literal::from_f64(DType::F32, 1.0 + 1.0 / 1024.0))));
            k.exprs.push(f32(Expr::Binary(BinaryOp::Mul, ExprId(0), ExprId(1))));
            k.stores[0].value = ExprId(2);
        })));
    }
}
