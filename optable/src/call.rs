//! What an operation is run from, and what it gives.

use std::{cell::RefCell, fmt::Display};

use serde_json::Value;
use wgrad::prelude::*;

/// Named tensors and attributes. Asking for what is not there gives a tensor that carries an error, or notes a [`Call::fault`], so
/// that rows read as the operation does.
#[derive(Debug)]
pub struct Call {
    attrs: Value,
    inputs: Vec<(String, Tensor)>,
    device: DeviceHandle,
    fault: RefCell<Option<String>>,
}

impl Call {
    /// A call on `device`; `attrs` is an object, or null for none.
    pub fn new(attrs: Value, inputs: Vec<(String, Tensor)>, device: &DeviceHandle) -> Self {
        Call { attrs, inputs, device: device.clone(), fault: RefCell::new(None) }
    }

    /// Input number `i`.
    pub fn x(&self, i: usize) -> Tensor {
        match self.inputs.get(i) {
            Some((_, tensor)) => tensor.clone(),
            None => self.absent(format!("the call has {} inputs and none numbered {i}", self.inputs.len())),
        }
    }

    /// The input of this name.
    pub fn named(&self, name: &str) -> Tensor {
        self.get(name).unwrap_or_else(|| self.absent(format!("the call has no input `{name}`")))
    }

    /// The input of this name, if there is one.
    pub fn get(&self, name: &str) -> Option<Tensor> {
        self.inputs.iter().find(|(n, _)| n == name).map(|(_, tensor)| tensor.clone())
    }

    /// Every input, in order.
    pub fn inputs(&self) -> &[(String, Tensor)] {
        &self.inputs
    }

    /// Where the operation runs.
    pub fn device(&self) -> &DeviceHandle {
        &self.device
    }

    /// The attribute as it came, if there is one (null counts as none).
    pub fn attr(&self, name: &str) -> Option<&Value> {
        self.attrs.get(name).filter(|value| !value.is_null())
    }

    /// The attribute as a number, or `default` where there is none.
    pub fn f64(&self, name: &str, default: f64) -> f64 {
        self.read(name, default, "a number", Value::as_f64)
    }

    /// The attribute as a count, or `default` where there is none.
    pub fn usize(&self, name: &str, default: usize) -> usize {
        self.read(name, default, "a count", |v| v.as_u64().map(|n| n as usize))
    }

    /// The attribute as an axis or offset, or `default` where there is none.
    pub fn isize(&self, name: &str, default: isize) -> isize {
        self.read(name, default, "an integer", |v| v.as_i64().map(|n| n as isize))
    }

    /// The attribute as a truth value, or `default` where there is none.
    pub fn bool(&self, name: &str, default: bool) -> bool {
        self.read(name, default, "true or false", Value::as_bool)
    }

    /// The attribute as text, or `default` where there is none.
    pub fn text(&self, name: &str, default: &str) -> String {
        self.read(name, default.to_owned(), "a string", |v| v.as_str().map(str::to_owned))
    }

    /// The attribute as one count for each of `N` axes, where one number stands for all of them, or `default` where there is none.
    pub fn each<const N: usize>(&self, name: &str, default: usize) -> [usize; N] {
        self.read(name, [default; N], "a count or one for each axis", |v| match v.as_array() {
            None => v.as_u64().map(|n| [n as usize; N]),
            Some(list) => counts(list)?.try_into().ok(),
        })
    }

    /// The attribute as a list of counts, or `default` where there is none.
    pub fn usizes(&self, name: &str, default: &[usize]) -> Vec<usize> {
        self.read(name, default.to_vec(), "a list of counts", |v| counts(v.as_array()?))
    }

    /// The attribute as a list of axes or offsets, or `default` where there is none.
    pub fn isizes(&self, name: &str, default: &[isize]) -> Vec<isize> {
        self.read(name, default.to_vec(), "a list of integers", |v| {
            v.as_array()?.iter().map(|n| n.as_i64().map(|n| n as isize)).collect()
        })
    }

    /// What was wrong with an attribute that was asked for.
    pub fn fault(&self) -> Option<String> {
        self.fault.borrow().clone()
    }

    fn read<T>(&self, name: &str, default: T, expected: &str, parse: impl Fn(&Value) -> Option<T>) -> T {
        let Some(value) = self.attr(name) else { return default };
        parse(value).unwrap_or_else(|| {
            let message = format!("the attribute `{name}` is {value}, expected {expected}");
            self.fault.borrow_mut().get_or_insert(message);
            default
        })
    }

    fn absent(&self, message: impl Display) -> Tensor {
        Tensor::zeros([], DType::F32, &self.device).invalid("optable", message.to_string())
    }
}

fn counts(list: &[Value]) -> Option<Vec<usize>> {
    list.iter().map(|n| n.as_u64().map(|n| n as usize)).collect()
}

/// The results of an operation: one tensor or several.
#[derive(Debug)]
pub struct Outputs(pub Vec<Tensor>);

impl From<Tensor> for Outputs {
    fn from(tensor: Tensor) -> Self {
        Outputs(vec![tensor])
    }
}

impl From<Vec<Tensor>> for Outputs {
    fn from(tensors: Vec<Tensor>) -> Self {
        Outputs(tensors)
    }
}

impl<const N: usize> From<[Tensor; N]> for Outputs {
    fn from(tensors: [Tensor; N]) -> Self {
        Outputs(tensors.into())
    }
}

impl From<(Tensor, Tensor)> for Outputs {
    fn from((a, b): (Tensor, Tensor)) -> Self {
        Outputs(vec![a, b])
    }
}

impl From<(Tensor, Tensor, Tensor)> for Outputs {
    fn from((a, b, c): (Tensor, Tensor, Tensor)) -> Self {
        Outputs(vec![a, b, c])
    }
}
