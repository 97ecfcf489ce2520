//! Views, and joining tensors.

use serde_json::json;
use wgrad::tensor::Tensor;

use crate::{Dtypes, Row, Sample, floats};

pub(super) fn rows() -> Vec<Row> {
    let mut rows = views();
    rows.extend(joins());
    rows
}

fn views() -> Vec<Row> {
    let view = |name, shapes, run: fn(&Tensor) -> Tensor| {
        Row::new(name, move |c| run(&c.x(0))).shapes(shapes).dtypes(Dtypes::Any)
    };
    vec![
        view("reshape", "[..] → any shape of as many elements", |x| x.reshape([x.elements()]))
            .entry_by("permute_reshape", |c| {
                let x = c.x(0).permute(&[2, 0, 1]);
                let [first, ..] = x.dims::<3>();
                x.reshape([first, x.elements() / first.max(1)])
            })
            .sample([floats("x", &[2, 3, 5])])
            .sample([floats("x", &[])])
            .sample([floats("x", &[0, 3])]),
        view("flatten", "[a.., b.., c..] → [a.., Π b, c..]", |x| x.flatten(1, -1))
            .sample([floats("x", &[2, 3, 4])])
            .sample([floats("x", &[3, 5])]),
        view("permute", "[..] → [..]", |x| {
            let mut axes: Vec<usize> = (0..x.rank()).collect();
            axes.rotate_left(x.rank().min(1));
            x.permute(&axes)
        })
        .part_of(&["permute_reshape"])
        .sample([floats("x", &[2, 3, 5])])
        .sample([floats("x", &[2, 1, 3, 1, 2, 1])]),
        view("transpose", "[.., m, .., n, ..] → [.., n, .., m, ..]", |x| x.transpose(0, -1))
            .sample([floats("x", &[2, 3, 5])]),
        view("expand", "[.., 1, ..] → [.., n, ..]", |x| x.expand([2, 3, 4])).sample([floats("x", &[3, 1])]),
        view("unsqueeze", "[..] → [.., 1, ..]", |x| x.unsqueeze(1)).sample([floats("x", &[3, 2])]),
        view("squeeze", "[.., 1, ..] → [..]", |x| x.squeeze(-2)).sample([floats("x", &[3, 1, 2])]),
        view("narrow", "[.., n, ..] → [.., length, ..]", |x| x.narrow(0, 1, 3))
            .sample([floats("x", &[5, 3])])
            .sample([floats("x", &[4])]),
        view("slice", "[.., n, ..] → [.., ⌈(end - start) / step⌉, ..]", |x| {
            x.slice(0, 1, 7, 3).slice(1, 0, 3, 2)
        })
        .entry_by("slice_step", |c| c.x(0).slice(0, 1, usize::MAX, 1).slice(1, 0, usize::MAX, 2))
        .sample([floats("x", &[7, 3])]),
        Row::new("split", |c| c.x(0).split(2, 0))
            .shapes("[.., n, ..] → several [.., size, ..]")
            .dtypes(Dtypes::Any)
            .sample([floats("x", &[5, 2])]),
        Row::new("chunk", |c| c.x(0).chunk(3, -1))
            .shapes("[.., n, ..] → several [.., ⌈n / chunks⌉, ..]")
            .dtypes(Dtypes::Any)
            .sample([floats("x", &[2, 9])]),
        Row::new("flip", |c| c.x(0).flip(&c.isizes("dims", &[0])))
            .dtypes(Dtypes::Any)
            .entry_by("roll_flip", |c| {
                let x = c.x(0);
                let n = x.shape().get(1).copied().unwrap_or(0);
                let tail = 2 % n.max(1);
                let rolled = Tensor::cat(&[&x.narrow(1, n - tail, tail), &x.narrow(1, 0, n - tail)], 1);
                [rolled, x.flip(&[0])]
            })
            .sample([floats("x", &[5, 3])])
            .sample(Sample::of([floats("x", &[2, 3, 2])]).attrs(json!({"dims": [0, -1]}))),
    ]
}

fn joins() -> Vec<Row> {
    let operands = |c: &crate::Call| c.inputs().iter().map(|(_, x)| x.clone()).collect::<Vec<_>>();
    vec![
        Row::new("cat", move |c| Tensor::cat(&operands(c).iter().collect::<Vec<_>>(), c.isize("dim", 0)))
            .shapes("several [.., n, ..] → [.., Σ n, ..]")
            .dtypes(Dtypes::Any)
            .entries(&["cat"])
            .sample(Sample::of([floats("x", &[2, 3]), floats("y", &[2, 1])]).attrs(json!({"dim": 1})))
            .sample([floats("x", &[3]), floats("y", &[0]), floats("z", &[2])]),
        Row::new("stack", move |c| Tensor::stack(&operands(c).iter().collect::<Vec<_>>(), c.isize("dim", 0)))
            .shapes("several [..] → [.., n, ..]")
            .dtypes(Dtypes::Any)
            .entries(&["stack"])
            .sample(Sample::of([floats("x", &[2, 3]), floats("y", &[2, 3])]).attrs(json!({"dim": -1})))
            .sample([floats("x", &[]), floats("y", &[])]),
    ]
}
