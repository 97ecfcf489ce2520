//! Indexing along an axis: reading (`gather` and its kin) and adding (`scatter_add` and its kin), each the other's gradient.
//!
//! Everything goes through the two primitives on rows of a table. Where an index varies along several axes, the table is the flattened
//! tensor, and the ids are positions in it. Indices whose values the host knows (uploaded, or views of such) are checked here, and
//! carry an error if one is out of range; those computed on a device are clamped there, and the next read reports it.

use wgrad_ir::{DType, Op, Shape};

use crate::Tensor;

impl Tensor {
    /// Rows of this table: `table [rows, rest..]` and integer `ids [idx..]` give `[idx.., rest..]`. The gradient adds up the cotangents
    /// of equal ids.
    #[track_caller]
    pub fn embedding(&self, ids: &Tensor) -> Tensor {
        self.rows("embedding", ids)
    }

    #[track_caller]
    fn rows(&self, name: &'static str, ids: &Tensor) -> Tensor {
        if let Some(message) = ids.out_of_range(self.shape().first().copied().unwrap_or(0))
            && self.error().is_none()
        {
            return ids.fail(name, format!("{message} of table {}", self.describe()));
        }
        Tensor::apply(name, Op::Gather, &[self, ids])
    }

    /// The transpose of [`Tensor::embedding`]: this tensor is `[idx.., rest..]` and the result `[rows, rest..]`, whose row `r` is the
    /// sum of the rows with id `r`.
    #[track_caller]
    pub fn scatter_add_rows(&self, rows: usize, ids: &Tensor) -> Tensor {
        if let Some(message) = ids.out_of_range(rows)
            && self.error().is_none()
        {
            return ids.fail("scatter_add_rows", message);
        }
        Tensor::apply("scatter_add_rows", Op::ScatterAdd { rows }, &[ids, self])
    }

    /// Entries `ids [n]` of an axis: `[.., extent, ..]` gives `[.., n, ..]`.
    #[track_caller]
    pub fn index_select(&self, dim: isize, ids: &Tensor) -> Tensor {
        if let Some(vector) = self.lone(dim).filter(|_| ids.elements() == 1) {
            return vector.index_select(dim, ids).reshape([]);
        }
        let axis = match self.axis(dim, 0) {
            Ok(axis) => axis,
            Err(message) => return self.fail("index_select", message),
        };
        if ids.error().is_none() && ids.rank() > 1 {
            return self.fail(
                "index_select",
                format!("expects ids of rank 1, got {}; see `gather`", ids.describe()),
            );
        }
        let ids = ids.reshape([ids.elements()]);
        self.move_axis(axis, 0).rows("index_select", &ids).move_axis(0, axis)
    }

    /// Adds the entries of `source [.., n, ..]` to those that `ids [n]` name along an axis; repeated ids add up.
    #[track_caller]
    pub fn index_add(&self, dim: isize, ids: &Tensor, source: &Tensor) -> Tensor {
        if let (Some(vector), Some(source)) = (self.lone(dim), source.lone(dim)) {
            return vector.index_add(dim, &ids.reshape([ids.elements()]), &source).reshape([]);
        }
        let axis = match self.axis(dim, 0) {
            Ok(axis) => axis,
            Err(message) => return self.fail("index_add", message),
        };
        if let Some(faulty) = [ids, source].into_iter().find(|t| t.error().is_some()) {
            return faulty.clone();
        }
        let mut expected = self.shape().to_vec();
        expected[axis] = ids.elements();
        if ids.rank() != 1 || *source.shape() != Shape::from(expected) || source.dtype() != self.dtype() {
            let message = format!(
                "expects ids of rank 1 and a source of {}'s dtype and extents, but as many as ids along axis {dim}; got {} and {}",
                self.describe(),
                ids.describe(),
                source.describe()
            );
            return self.fail("index_add", message);
        }
        let rows = self.shape()[axis];
        if rows == 0 {
            return self.clone();
        }
        let sums = source.move_axis(axis, 0).scatter_add_rows(rows, ids).move_axis(0, axis);
        self.add(&sums)
    }

    /// Along one axis the element that `index` names: `out[i][j] = self[index[i][j]][j]` for axis 0. `index` has this tensor's rank, and
    /// no extent larger than this tensor's but that of the axis.
    #[track_caller]
    pub fn gather(&self, dim: isize, index: &Tensor) -> Tensor {
        if let Some(vector) = self.lone(dim).filter(|_| index.rank() < 2) {
            return vector.gather(dim, &index.reshape([index.elements()])).reshape(index.shape());
        }
        match self.positions(dim, index, true) {
            // Nothing of it, which is read from no table.
            Ok(ids) if ids.elements() == 0 => self.flat().narrow(0, 0, 0).reshape(ids.shape()),
            Ok(ids) => self.flat().rows("gather", &ids),
            Err(message) => self.pass_or_fail("gather", &[index], message),
        }
    }

    /// [`Tensor::gather`] by indices that are known to fit, as those of a sort.
    #[track_caller]
    pub(crate) fn gather_within(&self, dim: isize, index: &Tensor) -> Tensor {
        if self.rank() == 0 && index.rank() == 0 && self.error().is_none() {
            return self.clone();
        }
        match self.positions(dim, index, false) {
            Ok(ids) if ids.elements() == 0 => self.flat().narrow(0, 0, 0).reshape(ids.shape()),
            Ok(ids) => self.flat().rows("gather", &ids),
            Err(message) => self.pass_or_fail("gather", &[index], message),
        }
    }

    /// [`Tensor::gather`] by an index that is broadcast to this tensor along the other axes.
    #[track_caller]
    pub fn take_along_dim(&self, index: &Tensor, dim: isize) -> Tensor {
        let axis = match self.axis(dim, 0) {
            Ok(axis) if index.rank() == self.rank() || index.error().is_some() => axis,
            Ok(_) => {
                let message = format!("expects an index of rank {}, got {}", self.rank(), index.describe());
                return self.fail("take_along_dim", message);
            }
            Err(message) => return self.fail("take_along_dim", message),
        };
        if index.error().is_some() {
            return index.clone();
        }
        let mut shape = self.shape().to_vec();
        shape[axis] = index.shape()[axis];
        self.gather(dim, &index.expand(shape))
    }

    /// This tensor plus the elements of `source`, each at the place along the axis that `index` names; repeated places add up. `source`
    /// may be larger than `index`; only as much of it as there are indices is used.
    #[track_caller]
    pub fn scatter_add(&self, dim: isize, index: &Tensor, source: &Tensor) -> Tensor {
        let (ids, source) = match self.scattered(dim, index, source) {
            Ok(pair) => pair,
            Err(message) => return self.pass_or_fail("scatter_add", &[index, source], message),
        };
        if self.elements() == 0 {
            return self.clone();
        }
        self.add(source.scatter_add_rows(self.elements(), &ids).reshape(self.shape()))
    }

    /// Positions in the flattened tensor, and the part of `source` that goes there, flattened too.
    fn scattered(&self, dim: isize, index: &Tensor, source: &Tensor) -> Result<(Tensor, Tensor), String> {
        if let (Some(vector), Some(source)) = (self.lone(dim), source.lone(dim)) {
            return vector.scattered(dim, &index.reshape([index.elements()]), &source);
        }
        let ids = self.positions(dim, index, true)?;
        if source.error().is_some() {
            return Err(String::new());
        }
        let fits = source.rank() == index.rank()
            && index.shape().iter().zip(source.shape().iter()).all(|(i, s)| i <= s)
            && source.dtype() == self.dtype();
        if !fits {
            return Err(format!(
                "expects a source of {} and at least the index's extents {}, got {}",
                self.dtype(),
                index.shape(),
                source.describe()
            ));
        }
        let mut part = source.clone();
        for (axis, &extent) in index.shape().iter().enumerate() {
            part = part.narrow(axis as isize, 0, extent);
        }
        Ok((ids.reshape([ids.elements()]), part.reshape([part.elements()])))
    }

    /// Replaces elements by those of `source`, each at the place along the axis that `index` names; of several for one place the last
    /// one stays. The gradient goes to what stays, of this tensor and of `source`.
    #[track_caller]
    pub fn scatter(&self, dim: isize, index: &Tensor, source: &Tensor) -> Tensor {
        let (ids, source) = match self.scattered(dim, index, source) {
            Ok(pair) => pair,
            Err(message) => return self.pass_or_fail("scatter", &[index, source], message),
        };
        let count = ids.elements();
        if self.elements() == 0 || count == 0 {
            return self.clone();
        }
        // In order of places, the last of each run is the one that stays.
        let order = ids.argsort(0, false);
        let (ids, source) = (ids.gather_within(0, &order), source.gather_within(0, &order));
        let next = Tensor::cat(&[&ids.narrow(0, 1, count - 1), &ids.narrow(0, 0, 1)], 0);
        let end = Tensor::arange(count, self.device()).eq(Tensor::constant(
            count as f64 - 1.0,
            DType::I32,
            self.device(),
        ));
        let stays = ids.ne(&next).logical_or(&end);
        let rows = self.elements();
        let kept = stays.where_(&source, &source.constant_like(0.0)).scatter_add_rows(rows, &ids);
        let hit = stays.cast(DType::I32).scatter_add_rows(rows, &ids).cast(DType::Bool);
        hit.where_(&kept, &self.flat()).reshape(self.shape())
    }

    /// `[..]` of class numbers to `[.., classes]`: 1 at the class, else 0, as `i32`.
    #[track_caller]
    pub fn one_hot(&self, classes: usize) -> Tensor {
        if let Some(message) = self.out_of_range(classes) {
            return self.fail("one_hot", message);
        }
        if self.error().is_none() && !self.dtype().is_int() {
            return self.fail("one_hot", format!("expects class numbers, got {}", self.describe()));
        }
        let number = self.cast(DType::I32).ensure_below(classes);
        let classes = Tensor::arange(classes, self.device());
        number.unsqueeze(-1).eq(&classes).cast(DType::I32)
    }

    /// The axis `from` moved to position `to`, the others in order.
    #[track_caller]
    pub(crate) fn move_axis(&self, from: usize, to: usize) -> Tensor {
        if self.error().is_some() {
            return self.clone();
        }
        let mut axes: Vec<usize> = (0..self.rank()).filter(|&a| a != from).collect();
        axes.insert(to.min(axes.len()), from);
        self.permute(&axes)
    }

    #[track_caller]
    fn flat(&self) -> Tensor {
        self.reshape([self.elements()])
    }

    /// The first operand's error, or this message.
    #[track_caller]
    fn pass_or_fail(&self, name: &'static str, operands: &[&Tensor], message: String) -> Tensor {
        match operands.iter().find(|t| t.error().is_some()) {
            Some(faulty) if self.error().is_none() => (*faulty).clone(),
            _ => self.fail(name, message),
        }
    }

    /// For each element of `index` the position in this tensor, flattened, that differs from its own place by the index along `dim`
    /// alone; -1, which devices report, where the index is out of range.
    fn positions(&self, dim: isize, index: &Tensor, check: bool) -> Result<Tensor, String> {
        let axis = self.axis(dim, 0)?;
        if index.error().is_some() {
            return Err(String::new());
        }
        let shape = index.shape().clone();
        let fits = shape.rank() == self.rank()
            && index.dtype().is_int()
            && (0..shape.rank()).all(|d| d == axis || shape[d] <= self.shape()[d]);
        if !fits {
            return Err(format!(
                "expects an integer index of rank {} that is no larger than {} but along axis {dim}, got {}",
                self.rank(),
                self.describe(),
                index.describe()
            ));
        }
        let extent = self.shape()[axis];
        if let Some(message) = index.out_of_range(extent) {
            return Err(format!("{message} of axis {dim} of {}", self.describe()));
        }
        if self.elements() > i32::MAX as usize {
            return Err(format!("{} has more elements than an i32 counts", self.describe()));
        }
        let (device, strides) = (self.device(), self.shape().strides());
        let number = |n: usize| Tensor::constant(n as f64, DType::I32, device);
        let index = index.cast(DType::I32);
        let mut ids = index.mul(number(strides[axis] as usize));
        for d in (0..shape.rank()).filter(|&d| d != axis && shape[d] > 1) {
            let mut along = vec![1; shape.rank()];
            along[d] = shape[d];
            let place = Tensor::arange(shape[d], device).mul(number(strides[d] as usize)).reshape(along);
            ids = ids.add(place);
        }
        if check && index.int_range().is_none() {
            let inside = index.ge(number(0)).logical_and(index.lt(number(extent)));
            ids = inside.where_(&ids, &Tensor::constant(-1.0, DType::I32, device));
        }
        Ok(ids)
    }

    fn out_of_range(&self, rows: usize) -> Option<String> {
        let (low, high) = self.0.range?;
        let bad = if low < 0 { low } else { high };
        (self.elements() > 0 && (low < 0 || high >= rows as i64))
            .then(|| format!("id {bad} in {} is out of range for the {rows} rows", self.describe()))
    }
}
