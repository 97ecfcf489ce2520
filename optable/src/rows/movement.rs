//! Views, and joining tensors.

use serde_json::json;
use wgrad::tensor::{PadMode, Tensor};

use crate::{Call, Dtypes, Row, Sample, floats};

pub(super) fn rows() -> Vec<Row> {
    let mut rows = views();
    rows.extend(joins());
    rows.extend(arrangements());
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
            .part_of(&["roll_flip"])
            .sample([floats("x", &[5, 3])])
            .sample(Sample::of([floats("x", &[2, 3, 2])]).attrs(json!({"dims": [0, -1]}))),
    ]
}

/// The widths of `F.pad`, which begins with the last axis, for each axis from the first.
fn widths(c: &Call) -> Vec<(usize, usize)> {
    let flat = c.usizes("pad", &[1, 2, 0, 1]);
    let mut widths = vec![(0, 0); c.x(0).rank()];
    for (width, pair) in widths.iter_mut().rev().zip(flat.chunks_exact(2)) {
        *width = (pair[0], pair[1]);
    }
    widths
}

fn arrangements() -> Vec<Row> {
    let on = |name, shapes, run: fn(&Call) -> Tensor| Row::new(name, run).shapes(shapes).dtypes(Dtypes::Any);
    let numbers = |name, shapes, run: fn(&Call) -> Tensor| on(name, shapes, run).dtypes(Dtypes::Numbers);
    let matrices = |row: Row| {
        row.sample([floats("x", &[3, 5])])
            .sample(Sample::of([floats("x", &[5, 3])]).attrs(json!({"diagonal": -1})))
            .sample(Sample::of([floats("x", &[2, 1, 4, 4])]).attrs(json!({"diagonal": 2})))
    };
    let mode = |c: &Call| match c.text("mode", "reflect").as_str() {
        "replicate" => PadMode::Replicate,
        "circular" => PadMode::Circular,
        _ => PadMode::Reflect,
    };
    let padded =
        |mode: &str| Sample::of([floats("x", &[2, 4, 3])]).attrs(json!({"mode": mode, "pad": [2, 1, 0, 3]}));
    vec![
        numbers("pad", "[n..] → [before + n + after ..]", |c| c.x(0).pad(&widths(c), c.f64("value", 0.5)))
            .entries(&["pad_constant"])
            .sample([floats("x", &[2, 3])])
            .sample(Sample::of([floats("x", &[0, 2])]).attrs(json!({"pad": [1, 1, 2, 0], "value": 0}))),
        Row::new("pad_with", move |c| c.x(0).pad_with(&widths(c), mode(c)))
            .shapes("[n..] → [before + n + after ..]")
            .dtypes(Dtypes::Any)
            .entries(&["pad_reflect"])
            .samples([padded("reflect"), padded("replicate"), padded("circular")]),
        on("roll", "[..] → [..]", |c| c.x(0).roll(&c.isizes("shifts", &[1]), &c.isizes("dims", &[-1])))
            .entry_by("roll_flip", |c| [c.x(0).roll(&[2], &[1]), c.x(0).flip(&[0])])
            .sample([floats("x", &[3, 5])])
            .sample(Sample::of([floats("x", &[3, 5])]).attrs(json!({"shifts": [-7, 2], "dims": [1, 0]}))),
        on("repeat", "[n..] → [r n ..]", |c| c.x(0).repeat(&c.usizes("repeats", &[2, 3])))
            .sample([floats("x", &[3])])
            .sample([floats("x", &[3, 2])]),
        on("repeat_interleave", "[.., n, ..] → [.., r n, ..]", |c| {
            c.x(0).repeat_interleave(c.usize("repeats", 3), c.isize("dim", 0))
        })
        .sample([floats("x", &[3, 2])])
        .sample(Sample::of([floats("x", &[2, 5])]).attrs(json!({"dim": -1, "repeats": 2}))),
        matrices(numbers("tril", "[.., m, n] → [.., m, n]", |c| c.x(0).tril(c.isize("diagonal", 0))))
            .entries(&["tril"]),
        matrices(numbers("triu", "[.., m, n] → [.., m, n]", |c| c.x(0).triu(c.isize("diagonal", 0)))),
        matrices(on("diagonal", "[.., m, n] → [.., length]", |c| {
            c.x(0).diagonal(c.isize("diagonal", 0), -2, -1)
        }))
        .sample(Sample::of([floats("x", &[2, 3])]).attrs(json!({"diagonal": 5}))),
        numbers("trace", "[m, n] → []", |c| c.x(0).trace()).sample([floats("x", &[3, 5])]),
        Row::new("meshgrid", |c| Tensor::meshgrid(&[&c.x(0), &c.x(1)]))
            .shapes("several [n] → several [n, ..]")
            .dtypes(Dtypes::Any)
            .sample([floats("x", &[3]), floats("y", &[2])]),
        on("pixel_shuffle", "[.., c r r, h, w] → [.., c, h r, w r]", |c| {
            c.x(0).pixel_shuffle(c.usize("r", 2))
        })
        .entries(&["pixel_shuffle"])
        .sample([floats("x", &[1, 8, 2, 3])]),
        on("pixel_unshuffle", "[.., c, h r, w r] → [.., c r r, h, w]", |c| {
            c.x(0).pixel_unshuffle(c.usize("r", 2))
        })
        .sample([floats("x", &[2, 4, 6])]),
    ]
}

fn joins() -> Vec<Row> {
    let operands = |c: &Call| c.inputs().iter().map(|(_, x)| x.clone()).collect::<Vec<_>>();
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
