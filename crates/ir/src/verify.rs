//! The rules that every pass must keep.

use std::sync::Arc;

use crate::{Arg, BufferRef, DType, Graph, IrError, Op, OutputSource, Program, Shape};

mod exprs;
mod kernel;

pub use exprs::row_constant;
use kernel::verify_kernel;

fn broken<T>(what: &'static str, message: String) -> Result<T, IrError> {
    Err(IrError::Inconsistent { what, message })
}

/// Checks that operands precede users, that shapes and dtypes are what [`Op::infer`] says, that outputs exist, and that
/// inputs and scalars of one index agree.
///
/// # Errors
/// The first broken rule.
pub fn verify_graph(graph: &Graph) -> Result<(), IrError> {
    let mut inputs: Vec<Option<(&Shape, DType)>> = Vec::new();
    for id in graph.ids() {
        let node = graph.node(id);
        if node.inputs.iter().any(|i| i.0 >= id.0) {
            return broken("graph", format!("%{} uses a node that comes after it", id.0));
        }
        let operands: Vec<_> =
            node.inputs.iter().map(|&i| (&graph.node(i).shape, graph.node(i).dtype)).collect();
        let (shape, dtype) = node.op.infer(&operands)?;
        if shape != node.shape || dtype != node.dtype {
            return broken(
                "graph",
                format!("%{} is {}{}, should be {dtype}{shape}", id.0, node.dtype, node.shape),
            );
        }
        if let Op::Loop { body, .. } = &node.op {
            // All outputs of a loop have one body: it is enough to look once.
            let first = graph
                .nodes()
                .iter()
                .find(|n| matches!(&n.op, Op::Loop { body: b, .. } if Arc::ptr_eq(b, body)));
            if first.is_some_and(|first| std::ptr::eq(first, node)) {
                verify_graph(&body.body)?;
            }
        }
        if let Op::Input { index, shape, dtype } = &node.op {
            let index = *index as usize;
            if inputs.len() <= index {
                inputs.resize(index + 1, None);
            }
            if inputs[index].is_some_and(|seen| seen != (shape, *dtype)) {
                return broken("graph", format!("input {index} has two shapes"));
            }
            inputs[index] = Some((shape, *dtype));
        }
    }
    match graph.outputs().iter().find(|o| o.index() >= graph.nodes().len()) {
        Some(o) => broken("graph", format!("output %{} does not exist", o.0)),
        None => Ok(()),
    }
}

/// Checks every step of a program: arguments exist, lie within their buffers and are large enough for every address a kernel forms,
/// what is read has been written, only updated inputs are written, no dispatch binds a buffer both to read and to write but for
/// updates in place, expressions are typed.
///
/// # Errors
/// The first broken rule.
pub fn verify_program(program: &Program) -> Result<(), IrError> {
    let mut written_results = vec![false; program.results.len()];
    let mut written_temps = vec![false; program.temps.len()];
    if program.updates.iter().any(|&i| i as usize >= program.inputs.len()) {
        return broken(
            "program",
            format!("updates {:?} of {} inputs", program.updates, program.inputs.len()),
        );
    }
    for (n, step) in program.steps.iter().enumerate() {
        let at = |message: String| format!("step {n} ({}): {message}", step.label);
        let fail = |message: String| broken("program", at(message));
        let writes = step.kernel.writes();
        for (a, arg) in step.args.iter().enumerate() {
            let exists = match arg.buffer {
                BufferRef::Input(i) => (i as usize) < program.inputs.len(),
                BufferRef::Output(i) => (i as usize) < program.results.len(),
                BufferRef::Temp(i) => (i as usize) < program.temps.len(),
            };
            if !exists {
                return fail(format!("argument {arg} does not exist"));
            }
            if arg.offset % Arg::ALIGNMENT != 0 || arg.offset + arg.bytes > program.bytes(arg.buffer) {
                let bytes = program.bytes(arg.buffer);
                return fail(format!(
                    "argument {arg} of {} bytes does not fit its buffer of {bytes}",
                    arg.bytes
                ));
            }
            let written = writes.contains(&(a as u32));
            if written {
                if let BufferRef::Input(i) = arg.buffer
                    && !program.updates.contains(&i)
                {
                    return fail(format!("writes the input {arg}"));
                }
                let clash = step.args.iter().enumerate().any(|(b, other)| {
                    let both_written = writes.contains(&(b as u32));
                    b != a && other.buffer == arg.buffer && (!both_written || other.overlaps(arg))
                });
                if clash {
                    return fail(format!("binds {arg} twice though it is written"));
                }
            }
            if !written || step.kernel.reads(a as u32) {
                let ready = match arg.buffer {
                    BufferRef::Input(_) => true,
                    BufferRef::Output(i) => written_results[i as usize],
                    BufferRef::Temp(i) => written_temps[i as usize],
                };
                if !ready {
                    return fail(format!("reads {arg} before it is written"));
                }
            }
        }
        for a in &writes {
            match step.args.get(*a as usize).map(|arg| arg.buffer) {
                Some(BufferRef::Output(i)) => written_results[i as usize] = true,
                Some(BufferRef::Temp(i)) => written_temps[i as usize] = true,
                Some(BufferRef::Input(_)) => {}
                None => return fail(format!("argument {a} is missing")),
            }
        }
        verify_kernel(&step.kernel, &|arg| step.args.get(arg as usize).map(|b| b.bytes))
            .map_err(|e| IrError::Inconsistent { what: "program", message: at(e) })?;
    }
    for out in &program.outputs {
        let (bytes_ok, exists) = match out.source {
            OutputSource::Input(i) => (true, (i as usize) < program.inputs.len()),
            OutputSource::Result(i) => {
                let exists = (i as usize) < program.results.len();
                (exists && (written_results[i as usize] || program.results[i as usize].bytes == 0), exists)
            }
        };
        if !exists || !bytes_ok {
            return broken("program", format!("output {:?} is never written", out.source));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        BufferSpec, Expr, ExprId, ExprNode, IndexMap, Kernel, MapKernel, OutputSpec, Step, Store, UnaryOp,
        View,
    };

    /// `y = exp(x)` over four elements, by hand.
    fn program() -> Program {
        let spec = BufferSpec { shape: [4].into(), dtype: DType::F32, bytes: 16 };
        let load = Expr::Load {
            arg: 1,
            map: IndexMap::contiguous([4].into()),
            fill: crate::Literal::zero(DType::F32),
        };
        let exprs = vec![
            ExprNode { expr: load, dtype: DType::F32 },
            ExprNode { expr: Expr::Unary(UnaryOp::Exp, ExprId(0)), dtype: DType::F32 },
        ];
        let stores = vec![Store { arg: 0, value: ExprId(1), view: View::contiguous([4].into()) }];
        let kernel = Arc::new(Kernel::Map(MapKernel { space: [4].into(), exprs, stores }));
        let arg = |buffer| Arg { buffer, offset: 0, bytes: 16 };
        let args = vec![arg(BufferRef::Output(0)), arg(BufferRef::Input(0))];
        Program {
            inputs: vec![spec.clone()],
            results: vec![spec.clone()],
            outputs: vec![OutputSpec {
                source: OutputSource::Result(0),
                shape: spec.shape,
                dtype: spec.dtype,
            }],
            steps: vec![Step { kernel, args, label: "exp".into() }],
            ..Program::default()
        }
    }

    #[test]
    fn a_sound_program_passes() {
        assert_eq!(verify_program(&program()), Ok(()));
    }

    #[test]
    fn a_buffer_too_small_for_its_kernel_is_found() {
        let mut p = program();
        p.inputs[0].bytes = 12;
        p.steps[0].args[1].bytes = 12;
        let error = verify_program(&p).unwrap_err().to_string();
        assert!(error.contains("reaches 0..=3 of 3 elements") && error.contains("exp"), "{error}");
    }

    #[test]
    fn reading_what_is_not_yet_written_is_found() {
        let mut p = program();
        p.temps = vec![16];
        Arc::make_mut(&mut p.steps[0].kernel);
        p.steps[0].args[1].buffer = BufferRef::Temp(0);
        assert!(verify_program(&p).unwrap_err().to_string().contains("before it is written"));
    }

    #[test]
    fn writing_an_input_and_reading_what_is_written_are_found() {
        let mut p = program();
        p.steps[0].args[0].buffer = BufferRef::Input(0);
        assert!(verify_program(&p).unwrap_err().to_string().contains("writes the input"));
        let mut p = program();
        p.steps[0].args[1].buffer = BufferRef::Output(0);
        assert!(verify_program(&p).unwrap_err().to_string().contains("twice"));
    }

    #[test]
    fn operands_that_do_not_fit_are_refused_with_their_shapes() {
        let mut g = Graph::new();
        let input = |index, shape: Shape| Op::Input { index, shape, dtype: DType::F32 };
        let a = g.push(input(0, [2, 3].into()), &[]).unwrap();
        let b = g.push(input(1, [2, 4].into()), &[]).unwrap();
        let error = g.push(Op::Binary(crate::BinaryOp::Add), &[a, b]).unwrap_err().to_string();
        assert_eq!(error, "[add] expects operands of one shape and dtype, got f32[2, 3] and f32[2, 4]");
        let error = g.push(Op::Dot, &[a, b]).unwrap_err().to_string();
        assert!(
            error.contains("[batch.., m, k] x [batch.., k, n]") && error.contains("f32[2, 4]"),
            "{error}"
        );
    }
}
