//! Products by cooperative matrices: extents and types of the body.

use wgrad_ir::{DeviceCaps, MatMulKernel};

use super::{Body, WHAT, sides, singles};
use crate::{KernelError, expr::Emitter};

/// Rows and columns of a workgroup, of a subgroup, and steps of `k` between barriers.
const BLOCK: u32 = 64;
const SIDE: u32 = 32;
const DEPTH: u32 = 16;

/// What stands before everything else in a text that uses such matrices.
pub(crate) const ENABLE: &str = "enable wgpu_cooperative_matrix;\n";

/// The body for matrices of `size` rows and columns, in workgroups of four subgroups of `subgroup` invocations.
pub(super) fn body(
    kernel: &MatMulKernel,
    caps: &DeviceCaps,
    emitter: &mut Emitter<'_>,
    (size, subgroup): (u32, u32),
) -> Result<Body, KernelError> {
    let threads = 4 * subgroup;
    if ![8, 16].contains(&size)
        || ![16, 32, 64].contains(&subgroup)
        || threads > caps.max_workgroup_invocations
    {
        let message = format!("{WHAT} by matrices of {size} in subgroups of {subgroup}");
        return Err(KernelError::Inconsistent(message));
    }
    // Operands of 16 bits are f32 once they are loaded; matrices of f16 need another configuration of the adapter.
    let hooks = types("f32", size) + &sides(kernel) + &singles(kernel, emitter)?;
    let constants = [
        ("BLOCK", BLOCK),
        ("SIDE", SIDE),
        ("SIZE", size),
        ("PARTS", SIDE / size),
        ("STEPS", DEPTH / size),
        ("THREADS", threads),
    ];
    Ok(Body {
        hooks,
        constants: constants.map(|(name, value)| (name, value.into())).to_vec(),
        text: include_str!("cooperative.wgsl"),
        tile: [BLOCK; 2],
        size: threads,
    })
}

/// Elements as they are multiplied, and the matrices: operands of that type, sums in f32.
fn types(element: &str, size: u32) -> String {
    let matrix = |of: &str, role: char| format!("coop_mat{size}x{size}<{of}, {role}>");
    format!(
        "alias Element = {element};\nalias Left = {};\nalias Right = {};\nalias Sum = {};\n",
        matrix(element, 'A'),
        matrix(element, 'B'),
        matrix("f32", 'C')
    )
}

#[cfg(all(test, feature = "check"))]
mod tests {
    use wgrad_ir::{DType, Expr, ExprId, ExprNode, Operand, Shape, Store, View};

    use super::*;
    use crate::{MatMulVariant, check, matmul::generate_as};

    fn product(m: usize, n: usize, k: usize, column_sums: Option<u32>) -> MatMulKernel {
        let view = |shape: [usize; 3]| View::contiguous(shape.into());
        MatMulKernel {
            batch: Shape::from([3]),
            m,
            n,
            k,
            dtype: DType::F32,
            operands: [DType::F32; 2],
            a: Operand { arg: 0, view: view([3, m, k]) },
            b: Operand { arg: 1, view: view([3, k, n]) },
            exprs: vec![ExprNode { expr: Expr::Product, dtype: DType::F32 }],
            stores: vec![Store { arg: 2, value: ExprId(0), view: view([3, m, n]) }],
            column_sums,
            split: None,
        }
    }

    fn caps() -> DeviceCaps {
        DeviceCaps {
            max_workgroup_invocations: 256,
            max_workgroup_bytes: 16 << 10,
            max_workgroups_per_dim: 65_535,
            ..DeviceCaps::cpu()
        }
    }

    #[test]
    fn vulkan_and_metal_take_products_by_cooperative_matrices() {
        for (size, subgroup) in [(8, 32), (16, 32), (8, 64), (16, 16)] {
            for (kernel, sums) in
                [(product(64, 128, 32, None), false), (product(70, 33, 1021, Some(3)), true)]
            {
                let variant = MatMulVariant::Cooperative { size, subgroup };
                let [dispatch] = &*generate_as(&kernel, &caps(), variant).unwrap() else { panic!("one") };
                check(&dispatch.source).unwrap_or_else(|e| panic!("{e}\n{}", dispatch.source));
                assert_eq!(dispatch.workgroup_size, 4 * subgroup);
                assert_eq!(dispatch.source.contains("store_sum("), sums);
                let size = format!("coop_mat{size}x{size}<f32, C>");
                assert!(dispatch.subgroups && dispatch.source.contains(&size), "{}", dispatch.source);
            }
        }
    }

    #[test]
    fn operands_of_16_bits_are_summed_in_32() {
        let [dispatch] = &*generate_as(
            &product(64, 64, 64, None),
            &caps(),
            MatMulVariant::Cooperative { size: 16, subgroup: 32 },
        )
        .unwrap() else {
            panic!("one")
        };
        let half = dispatch.source.replace(&types("f32", 16), &types("f16", 16));
        check(&format!("enable f16;\n{half}")).unwrap_or_else(|e| panic!("{e}\n{half}"));
    }

    #[test]
    fn sizes_that_no_matrix_has_are_refused() {
        for (size, subgroup) in [(4, 32), (8, 8), (8, 128)] {
            let variant = MatMulVariant::Cooperative { size, subgroup };
            assert!(generate_as(&product(64, 64, 64, None), &caps(), variant).is_err());
        }
    }
}
