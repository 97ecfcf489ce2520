//! What L-BFGS remembers: changes of the point and of the gradient.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::json;
use wgrad_tensor::{Tensor, TensorError};

use super::flat::{dot, leaves};
use crate::{OptimError, OptimizerState};

/// Curvature this small says nothing.
const LEAST_CURVATURE: f64 = 1e-10;

/// Pairs, the last direction and the numbers between two iterations. Names are PyTorch's.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    /// Changes of the gradient, oldest first.
    pub(super) old_dirs: Vec<Tensor>,
    /// Changes of the point, oldest first.
    pub(super) old_stps: Vec<Tensor>,
    pub(super) ro: Vec<f64>,
    pub(super) h_diag: f64,
    pub(super) d: Option<Tensor>,
    pub(super) t: f64,
    pub(super) prev_flat_grad: Option<Tensor>,
    pub(super) n_iter: u64,
    pub(super) func_evals: u64,
}

/// The numbers of a saved memory. Floats are kept as their bits, so that they come back as they were.
#[derive(Serialize, Deserialize)]
struct Numbers {
    rule: String,
    params: Vec<String>,
    ro_bits: Vec<u64>,
    h_diag_bits: u64,
    t_bits: u64,
    n_iter: u64,
    func_evals: u64,
}

impl Memory {
    /// Learns from the last move, and returns the new direction for a gradient.
    pub(super) fn direction(&mut self, gradient: &Tensor, history: usize) -> Result<Tensor, TensorError> {
        let (Some(d), Some(before)) = (&self.d, &self.prev_flat_grad) else {
            self.h_diag = 1.0;
            return gradient.neg().to_leaf();
        };
        let (y, s) = (gradient.sub(before), d.mul(self.t));
        let [ys, yy, y, s] = leaves([dot(&y, &s), y.square().sum_all(), y, s])?;
        let (ys, yy) = (ys.item()?, yy.item()?);
        if ys > LEAST_CURVATURE {
            if self.old_dirs.len() >= history {
                self.old_dirs.remove(0);
                self.old_stps.remove(0);
                self.ro.remove(0);
            }
            self.old_dirs.push(y);
            self.old_stps.push(s);
            self.ro.push(ys.recip());
            self.h_diag = ys / yy;
        }
        // The two loops, one small program for each pair, the same for all pairs.
        let mut q = gradient.neg().to_leaf()?;
        let mut shares = Vec::with_capacity(self.ro.len());
        for ((y, s), ro) in self.old_dirs.iter().zip(&self.old_stps).zip(&self.ro).rev() {
            let share = dot(s, &q).mul(*ro);
            let [share, next] = leaves([share.clone(), q.sub(y.mul(&share))])?;
            shares.push(share);
            q = next;
        }
        let mut r = q.mul(self.h_diag).to_leaf()?;
        for (((y, s), ro), share) in
            self.old_dirs.iter().zip(&self.old_stps).zip(&self.ro).zip(shares.iter().rev())
        {
            r = r.add(s.mul(share.sub(dot(y, &r).mul(*ro)))).to_leaf()?;
        }
        Ok(r)
    }

    /// For a checkpoint.
    pub(super) fn write(&self, params: Vec<&str>) -> OptimizerState {
        let mut tensors = Vec::new();
        for (prefix, list) in [("old_dirs", &self.old_dirs), ("old_stps", &self.old_stps)] {
            tensors.extend(list.iter().enumerate().map(|(i, t)| (format!("{prefix}.{i}"), t.clone())));
        }
        for (name, tensor) in [("d", &self.d), ("prev_flat_grad", &self.prev_flat_grad)] {
            tensors.extend(tensor.iter().map(|t| (name.to_owned(), t.clone())));
        }
        let scalars = json!({
            "rule": "lbfgs",
            "params": params,
            "ro_bits": self.ro.iter().map(|ro| ro.to_bits()).collect::<Vec<_>>(),
            "h_diag_bits": self.h_diag.to_bits(),
            "t_bits": self.t.to_bits(),
            "n_iter": self.n_iter,
            "func_evals": self.func_evals,
        });
        OptimizerState { tensors, scalars }
    }

    /// From a checkpoint, for vectors of `len` elements of the dtype of `like`, on its device.
    pub(super) fn read(
        state: &OptimizerState,
        params: Vec<&str>,
        len: usize,
        like: &Tensor,
    ) -> Result<Self, OptimError> {
        let unfit = |problem: String| OptimError::State { problems: vec![problem] };
        let numbers = Numbers::deserialize(&state.scalars).map_err(|e| unfit(e.to_string()))?;
        if numbers.rule != "lbfgs" {
            return Err(unfit(format!("it was written by {}, not by lbfgs", numbers.rule)));
        }
        if numbers.params != params {
            return Err(unfit(format!("it is of the parameters {:?}, not {params:?}", numbers.params)));
        }
        let given: HashMap<&str, &Tensor> = state.tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
        let find = |name: String| match given.get(name.as_str()) {
            Some(t) if t.rank() == 1 && t.elements() == len && t.dtype() == like.dtype() => {
                t.to_device(like.device()).to_leaf().map_err(OptimError::from)
            }
            Some(t) => Err(unfit(format!(
                "`{name}` is {}{} instead of {}[{len}]",
                t.dtype(),
                t.shape(),
                like.dtype()
            ))),
            None => Err(unfit(format!("`{name}` is missing"))),
        };
        let pairs = 0..numbers.ro_bits.len();
        let list = |prefix: &str| -> Result<Vec<Tensor>, OptimError> {
            pairs.clone().map(|i| find(format!("{prefix}.{i}"))).collect()
        };
        let begun = numbers.n_iter > 0;
        let last = |name: &str| begun.then(|| find(name.to_owned())).transpose();
        Ok(Memory {
            old_dirs: list("old_dirs")?,
            old_stps: list("old_stps")?,
            d: last("d")?,
            prev_flat_grad: last("prev_flat_grad")?,
            h_diag: f64::from_bits(numbers.h_diag_bits),
            t: f64::from_bits(numbers.t_bits),
            n_iter: numbers.n_iter,
            func_evals: numbers.func_evals,
            ro: numbers.ro_bits.iter().map(|bits| f64::from_bits(*bits)).collect(),
        })
    }
}
