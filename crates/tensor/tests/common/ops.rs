//! The table of operations: one row per operation or composition, which finite differences and the comparison of devices go
//! through.

use wgrad_tensor::Tensor;

/// What a row computes from its inputs.
pub(crate) type Build = Box<dyn Fn(&[Tensor]) -> Tensor>;

/// One row.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) shapes: Vec<Vec<usize>>,
    /// Where the elements of the inputs are taken from.
    pub(crate) domain: (f64, f64),
    pub(crate) build: Build,
}

#[derive(Default)]
struct Table(Vec<Case>);

impl Table {
    fn on(
        &mut self,
        name: &'static str,
        shapes: &[&[usize]],
        domain: (f64, f64),
        build: impl Fn(&[Tensor]) -> Tensor + 'static,
    ) {
        let shapes = shapes.iter().map(|s| s.to_vec()).collect();
        self.0.push(Case { name, shapes, domain, build: Box::new(build) });
    }

    fn add(
        &mut self,
        name: &'static str,
        shapes: &[&[usize]],
        build: impl Fn(&[Tensor]) -> Tensor + 'static,
    ) {
        self.on(name, shapes, (-1.9, 1.9), build);
    }
}

/// Every row.
pub(crate) fn cases() -> Vec<Case> {
    let mut t = Table::default();
    elementwise(&mut t);
    movement(&mut t);
    reductions(&mut t);
    contractions(&mut t);
    compositions(&mut t);
    t.0
}

const POSITIVE: (f64, f64) = (0.3, 2.7);

fn elementwise(t: &mut Table) {
    t.add("neg", &[&[2, 3]], |x| x[0].neg());
    t.add("abs", &[&[2, 3]], |x| x[0].abs());
    t.add("exp", &[&[2, 3]], |x| x[0].exp());
    t.on("log", &[&[2, 3]], POSITIVE, |x| x[0].log());
    t.on("sqrt", &[&[2, 3]], POSITIVE, |x| x[0].sqrt());
    t.on("rsqrt", &[&[2, 3]], POSITIVE, |x| x[0].rsqrt());
    t.on("reciprocal", &[&[2, 3]], POSITIVE, |x| x[0].reciprocal());
    t.add("tanh", &[&[13]], |x| x[0].tanh());
    t.on("erf", &[&[37]], (-3.5, 3.5), |x| x[0].erf());
    t.add("sin", &[&[2, 3]], |x| x[0].sin());
    t.add("cos", &[&[2, 3]], |x| x[0].cos());
    t.add("floor", &[&[2, 3]], |x| x[0].floor());
    t.add("square", &[&[2, 3]], |x| x[0].square());
    t.on("sigmoid", &[&[17]], (-6.0, 6.0), |x| x[0].sigmoid());
    t.add("relu", &[&[2, 3]], |x| x[0].relu());
    t.add("silu", &[&[2, 3]], |x| x[0].silu());
    t.add("gelu", &[&[17]], |x| x[0].gelu());
    t.add("gelu_tanh", &[&[17]], |x| x[0].gelu_tanh());
    t.add("clamp", &[&[17]], |x| x[0].clamp(-0.5, 1.0));
    t.add("exp of a scalar", &[&[]], |x| x[0].exp());
    t.add("exp of one element", &[&[1]], |x| x[0].exp());
    t.add("exp at rank 6", &[&[2, 1, 3, 1, 2, 1]], |x| x[0].exp());
    t.add("exp of primes", &[&[7, 11, 3]], |x| x[0].exp());

    t.add("add", &[&[2, 3], &[3]], |x| x[0].add(&x[1]));
    t.add("sub", &[&[2, 1], &[1, 3]], |x| x[0].sub(&x[1]));
    t.add("mul", &[&[4, 1, 3], &[2, 1]], |x| x[0].mul(&x[1]));
    t.add("mul by a scalar tensor", &[&[3, 2], &[]], |x| x[0].mul(&x[1]));
    t.on("div", &[&[2, 3], &[2, 1]], POSITIVE, |x| x[0].div(&x[1]));
    t.on("pow", &[&[2, 3], &[3]], POSITIVE, |x| x[0].pow(&x[1]));
    t.add("maximum", &[&[2, 3], &[3]], |x| x[0].maximum(&x[1]));
    t.add("minimum", &[&[2, 3], &[2, 1]], |x| x[0].minimum(&x[1]));
    t.on("fmod", &[&[5], &[5]], POSITIVE, |x| x[0].fmod(&x[1]));
    t.on("operators with numbers", &[&[2, 3]], POSITIVE, |x| {
        (2.5 - &x[0]) * 3.0 + 1.0 / (&x[0] + 0.5) - (-&x[0]) / 4.0
    });
    t.on("pow by a number", &[&[5]], POSITIVE, |x| x[0].pow(2.5));
    t.add("where", &[&[2, 3], &[3]], |x| x[0].gt(&x[1]).where_(&x[0].exp(), &x[1]));
    t.add("masked_fill", &[&[3, 3]], |x| {
        let i = Tensor::arange(3, x[0].device());
        x[0].masked_fill(&i.unsqueeze(0).gt(i.unsqueeze(1)), -5.0)
    });
    t.add("an operand used three times", &[&[4]], |x| &x[0] * &x[0] * &x[0] + &x[0]);
    t.add("detach beside its operand", &[&[4]], |x| &x[0] * 2.0 + x[0].gt(0.0).cast(x[0].dtype()).detach());
}

fn movement(t: &mut Table) {
    t.add("reshape", &[&[2, 3, 4]], |x| x[0].reshape([4, 6]));
    t.add("flatten", &[&[2, 3, 4]], |x| x[0].flatten(1, -1));
    t.add("permute", &[&[2, 3, 4]], |x| x[0].permute(&[2, 0, 1]));
    t.add("transpose", &[&[2, 3, 4]], |x| x[0].transpose(0, -1));
    t.add("t", &[&[2, 3]], |x| x[0].t());
    t.add("expand", &[&[3, 1]], |x| x[0].expand([2, 3, 4]));
    t.add("unsqueeze and squeeze", &[&[3, 1]], |x| x[0].unsqueeze(0).squeeze(-1));
    t.add("narrow", &[&[5, 3]], |x| x[0].narrow(0, 1, 3));
    t.add("slice with step", &[&[7, 3]], |x| x[0].slice(0, 1, 7, 3).slice(1, 0, 3, 2));
    t.add("split", &[&[5, 2]], |x| {
        let parts = x[0].split(2, 0);
        parts[0].sub(&parts[1]).mul(&parts[2])
    });
    t.add("chunk", &[&[2, 9]], |x| {
        let parts = x[0].chunk(3, -1);
        parts[0].mul(&parts[1]).add(&parts[2])
    });
    t.add("pad", &[&[2, 3]], |x| x[0].pad(&[(1, 0), (0, 2)], 0.5));
    t.add("flip", &[&[2, 3]], |x| x[0].flip(&[0, -1]));
    t.add("cat", &[&[2, 3], &[2, 1], &[2, 2]], |x| Tensor::cat(&[&x[0], &x[1], &x[2]], 1));
    t.add("stack", &[&[2, 3], &[2, 3]], |x| Tensor::stack(&[&x[0], &x[1]], -1));
    t.add("index_select", &[&[4, 3]], |x| {
        let ids = Tensor::from_vec(vec![2i32, 0, 2, 3, 2, 0], [3, 2], x[0].device());
        x[0].embedding(&ids)
    });
    t.add("scatter_add_rows", &[&[3, 2, 2]], |x| {
        let ids = Tensor::from_vec(vec![2i32, 0, 2, 3, 2, 0], [3, 2], x[0].device());
        x[0].scatter_add_rows(5, &ids)
    });
}

fn reductions(t: &mut Table) {
    t.add("sum of the last axis", &[&[3, 5]], |x| x[0].sum(&[-1], false));
    t.add("sum of the first axis", &[&[3, 5]], |x| x[0].sum(&[0], true));
    t.add("sum of outer axes", &[&[3, 5, 2]], |x| x[0].sum(&[2, 0], false));
    t.add("sum of a long prime axis", &[&[3, 257]], |x| x[0].square().sum(&[1], false));
    t.add("mean", &[&[3, 5]], |x| x[0].mean(&[1], true));
    t.add("amax", &[&[3, 5]], |x| x[0].amax(&[1], false));
    t.add("amin", &[&[3, 5]], |x| x[0].amin(&[0], true));
    t.add("var", &[&[3, 5]], |x| x[0].var(&[1], true, false));
    t.add("biased var over two axes", &[&[3, 2, 4]], |x| x[0].var(&[0, 2], false, true));
    t.add("logsumexp", &[&[3, 5]], |x| x[0].logsumexp(&[-1], false));
    t.add("logsumexp over all axes", &[&[3, 5]], |x| x[0].logsumexp(&[0, 1], true));
    t.add("softmax", &[&[3, 5]], |x| x[0].softmax(-1));
    t.add("softmax of the first axis", &[&[3, 5]], |x| x[0].softmax(0));
    t.add("log_softmax", &[&[3, 5]], |x| x[0].log_softmax(-1));
    t.add("sum_all", &[&[3, 5]], |x| x[0].sum_all());
    t.add("mean_all", &[&[3, 5, 1]], |x| x[0].mean_all());
}

fn contractions(t: &mut Table) {
    t.add("matmul", &[&[3, 4], &[4, 5]], |x| x[0].matmul(&x[1]));
    t.add("matmul of primes", &[&[7, 13], &[13, 11]], |x| x[0].matmul(&x[1]));
    t.add("matmul with a row", &[&[1, 4], &[4, 5]], |x| x[0].matmul(&x[1]));
    t.add("matmul with a column", &[&[5, 4], &[4, 1]], |x| x[0].matmul(&x[1]));
    t.add("outer product", &[&[5, 1], &[1, 4]], |x| x[0].matmul(&x[1]));
    t.add("matmul of rows by one matrix", &[&[2, 3, 4], &[4, 5]], |x| x[0].matmul(&x[1]));
    t.add("batched matmul", &[&[2, 3, 4], &[2, 4, 2]], |x| x[0].matmul(&x[1]));
    t.add("broadcast batches", &[&[2, 1, 3, 4], &[3, 4, 2]], |x| x[0].matmul(&x[1]));
    t.add("matmul of a matrix by batches", &[&[3, 4], &[2, 4, 2]], |x| x[0].matmul(&x[1]));
    t.add("matmul with transposed operands", &[&[4, 3], &[5, 4]], |x| x[0].t().matmul(&x[1].t()));
    t.add("batched matmul with a transpose", &[&[2, 3, 4], &[2, 5, 4]], |x| {
        x[0].matmul(&x[1].transpose(-1, -2))
    });
    t.add("gram matrix", &[&[3, 4]], |x| x[0].matmul(&x[0].t()));
}

fn compositions(t: &mut Table) {
    t.add("reshape, permute, slice, gelu", &[&[2, 3, 4]], |x| {
        x[0].reshape([3, 8]).permute(&[1, 0]).slice(0, 1, 8, 2).gelu()
    });
    t.add("pad, flip, slice, sum", &[&[3, 4]], |x| {
        x[0].pad(&[(1, 1), (2, 0)], 1.0).flip(&[1]).slice(1, 1, 6, 2).square().sum(&[0], false)
    });
    t.add("expand, permute, reshape, mul", &[&[3, 1, 2], &[4, 6]], |x| {
        x[0].expand([3, 4, 2]).permute(&[1, 0, 2]).reshape([4, 6]).mul(&x[1])
    });
    t.add("cat of views, matmul", &[&[2, 3], &[3, 2], &[3, 2]], |x| {
        Tensor::cat(&[&x[0].t(), &x[1].flip(&[0])], 1).t().matmul(&x[2])
    });
    t.add("reduce of a transposed pad", &[&[3, 2]], |x| x[0].pad(&[(0, 1), (1, 0)], 0.0).t().softmax(-1));
    t.add("stack, reduce, broadcast", &[&[2, 3], &[2, 3]], |x| {
        let both = Tensor::stack(&[&x[0], &x[1]], 0);
        both.sub(both.mean(&[0], true)).square().amax(&[1, 2], false)
    });
    t.add("layer norm", &[&[2, 3, 8], &[8], &[8]], |x| {
        let centred = x[0].sub(x[0].mean(&[-1], true));
        let variance = x[0].var(&[-1], false, true);
        centred.mul((variance + 1e-5).rsqrt()).mul(&x[1]).add(&x[2])
    });
    t.add("cross-entropy by a comparison", &[&[4, 7]], |x| {
        let device = x[0].device();
        let targets = Tensor::from_vec(vec![3i32, 0, 6, 3], [4, 1], device);
        let hit = Tensor::arange(7, device).eq(&targets);
        hit.where_(&x[0].log_softmax(-1), &Tensor::zeros([], x[0].dtype(), device)).sum_all() * -0.25
    });
    t.add("causal attention from packed weights", &[&[2, 5, 6], &[6, 18], &[6, 6]], |x| {
        let [b, n, c] = x[0].dims();
        let heads = 2;
        let qkv = x[0].matmul(&x[1]).chunk(3, -1);
        let split = |p: &Tensor| p.reshape([b, n, heads, c / heads]).transpose(1, 2);
        let (q, k, v) = (split(&qkv[0]), split(&qkv[1]), split(&qkv[2]));
        let i = Tensor::arange(n, x[0].device());
        let future = i.unsqueeze(0).gt(i.unsqueeze(1));
        let scores = q.matmul(&k.transpose(-1, -2)) * 0.577;
        let y = scores.masked_fill(&future, -1e9).softmax(-1).matmul(&v);
        y.transpose(1, 2).reshape([b, n, c]).matmul(&x[2])
    });
    t.add("embedding, residual, tied output", &[&[5, 4], &[4, 4]], |x| {
        let ids = Tensor::from_vec(vec![1i32, 4, 4, 0], [2, 2], x[0].device());
        let h = x[0].embedding(&ids);
        let h = h.matmul(&x[1]).gelu_tanh().add(&h);
        h.matmul(&x[0].t()).log_softmax(-1)
    });
    t.add("perceptron", &[&[3, 4], &[4, 6], &[6], &[6, 2]], |x| {
        x[0].matmul(&x[1]).add(&x[2]).tanh().matmul(&x[3]).sigmoid()
    });
}
