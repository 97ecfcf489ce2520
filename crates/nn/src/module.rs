//! Named traversal of parameters, and what follows from it.

use std::{collections::HashSet, path::Path, sync::Arc};

use wgrad_tensor::Tensor;

use crate::{Linear, NnError, Param, safetensors};

/// Something that holds parameters. Derive it (`#[derive(Module)]`), or implement [`Module::visit`] by hand where the names
/// are not those of the fields.
///
/// ```
/// use wgrad_nn::{Linear, Module};
/// #[derive(Module)]
/// struct Mlp {
///     c_fc: Linear,
///     c_proj: Linear,
///     width: usize,
/// }
/// ```
///
/// A field that is neither a module nor a primitive has to say that it holds no parameters; this does not compile:
///
/// ```compile_fail
/// #[derive(wgrad_nn::Module)]
/// struct Grid {
///     sizes: (usize, usize),
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` holds no parameters that `Module` could visit",
    note = "a field of a module is a `Param`, a `Module`, or a `Vec`, `Option`, `Box` or `Arc` of one",
    note = "write `#[module(skip)]` above a field that holds a plain value"
)]
pub trait Module {
    /// Shows every parameter and buffer to the visitor, under its name, in a fixed order.
    fn visit(&self, visitor: &mut Visitor<'_>);

    /// Names and parameters in the order of [`Module::visit`], without buffers. A parameter that is reached twice (tied weights) is
    /// listed once, under its first name.
    fn named_parameters(&self) -> Vec<(String, Param)> {
        self.named_tensors().into_iter().filter(|(_, param)| !param.is_buffer()).collect()
    }

    /// Names and buffers ([`Param::buffer`]) in the order of [`Module::visit`].
    fn named_buffers(&self) -> Vec<(String, Param)> {
        self.named_tensors().into_iter().filter(|(_, param)| param.is_buffer()).collect()
    }

    /// Parameters and buffers: all that is saved and loaded.
    fn named_tensors(&self) -> Vec<(String, Param)> {
        let (mut seen, mut list) = (HashSet::new(), Vec::new());
        let mut each = |name: &str, param: &Param| {
            if seen.insert(param.identity()) {
                list.push((name.to_owned(), param.clone()));
            }
        };
        self.visit(&mut Visitor::new(&mut each));
        list
    }

    /// How many numbers the parameters hold, tied ones counted once, frozen ones included.
    fn num_parameters(&self) -> usize {
        self.named_parameters().iter().map(|(_, p)| p.tensor().elements()).sum()
    }

    /// Freezes the parameters whose names match `pattern`, in which `*` stands for any characters, dots included
    /// (`transformer.h.0.*`, `*.bias`, `*`). Returns how many match, so that a misspelt pattern can be noticed.
    fn freeze(&self, pattern: &str) -> usize {
        matching(self, pattern).inspect(Param::freeze).count()
    }

    /// Undoes [`Module::freeze`] for the parameters whose names match; returns how many do.
    fn unfreeze(&self, pattern: &str) -> usize {
        matching(self, pattern).inspect(Param::unfreeze).count()
    }

    /// Names and values now, in the order of [`Module::named_tensors`].
    fn state_dict(&self) -> Vec<(String, Tensor)> {
        self.named_tensors().into_iter().map(|(name, param)| (name, param.tensor())).collect()
    }

    /// Replaces parameters by the tensors of their names, converted to each parameter's dtype. With `strict`, every parameter
    /// must be given and every tensor must have a parameter; without it, the two may differ, but what has the same name must have
    /// the same shape. Nothing is changed unless everything fits.
    ///
    /// # Errors
    /// [`NnError::Mismatch`], which lists all that does not fit.
    fn load_state_dict(&self, tensors: &[(String, Tensor)], strict: bool) -> Result<(), NnError> {
        safetensors::load_into("the given tensors", &self.named_tensors(), tensors, strict)
    }

    /// Writes the parameters to a `.safetensors` file: to a temporary name beside it first, synced and renamed, so that
    /// the file is never half written.
    ///
    /// # Errors
    /// The values could not be computed or read back, or the file could not be written.
    fn save_safetensors(&self, path: &Path) -> Result<(), NnError> {
        // The entry that Hugging Face's loaders look for.
        safetensors::save(path, &self.state_dict(), &[("format", "pt")])
    }

    /// Reads the parameters from a `.safetensors` file; see [`Module::load_state_dict`].
    ///
    /// # Errors
    /// The file cannot be read or is not valid, or [`NnError::Mismatch`].
    fn load_safetensors(&self, path: &Path, strict: bool) -> Result<(), NnError> {
        let params = self.named_tensors();
        let Some((_, first)) = params.first() else { return Ok(()) };
        let tensors = safetensors::load(path, first.tensor().device())?;
        safetensors::load_into(&path.display().to_string(), &params, &tensors, strict)
    }
}

fn matching<M: Module + ?Sized>(module: &M, pattern: &str) -> impl Iterator<Item = Param> {
    let pattern = pattern.to_owned();
    let named = module.named_parameters().into_iter();
    named.filter(move |(name, _)| matches(&pattern, name)).map(|(_, param)| param)
}

/// Whether `name` matches `pattern`, in which `*` stands for any characters.
pub fn matches(pattern: &str, name: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut tail) = name.strip_prefix(head) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        // The leftmost place is the best one for what follows.
        let Some(at) = tail.find(part) else { return false };
        tail = &tail[at + part.len()..];
    }
    tail.ends_with(last)
}

/// What is shown a layer and its path.
type EachLinear<'a> = dyn FnMut(&str, &Linear) + 'a;

/// Walks through a module and shows each parameter with its path.
pub struct Visitor<'a> {
    path: String,
    each: &'a mut dyn FnMut(&str, &Param),
    linears: Option<&'a mut EachLinear<'a>>,
}

impl<'a> Visitor<'a> {
    /// A visitor that calls `each` with the name of every parameter and the parameter.
    pub fn new(each: &'a mut dyn FnMut(&str, &Param)) -> Self {
        Visitor { path: String::new(), each, linears: None }
    }

    /// A visitor that also calls `linears` with the path of every [`Linear`] and the layer.
    pub(crate) fn of_linears(each: &'a mut dyn FnMut(&str, &Param), linears: &'a mut EachLinear<'a>) -> Self {
        Visitor { path: String::new(), each, linears: Some(linears) }
    }

    /// Shows a layer under the path of the enclosing fields.
    pub(crate) fn linear(&mut self, linear: &Linear) {
        if let Some(each) = &mut self.linears {
            each(&self.path, linear);
        }
    }

    /// Visits what is under `name`; an empty name adds nothing to the path.
    pub fn field(&mut self, name: &str, visit: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        if !self.path.is_empty() && !name.is_empty() {
            self.path.push('.');
        }
        self.path.push_str(name);
        visit(self);
        self.path.truncate(length);
    }

    /// Shows a parameter under the path of the enclosing fields.
    pub fn param(&mut self, param: &Param) {
        (self.each)(&self.path, param);
    }
}

impl Module for Param {
    fn visit(&self, visitor: &mut Visitor<'_>) {
        visitor.param(self);
    }
}

impl<M: Module> Module for Vec<M> {
    fn visit(&self, visitor: &mut Visitor<'_>) {
        for (index, module) in self.iter().enumerate() {
            visitor.field(&index.to_string(), |visitor| module.visit(visitor));
        }
    }
}

impl<M: Module> Module for Option<M> {
    fn visit(&self, visitor: &mut Visitor<'_>) {
        if let Some(module) = self {
            module.visit(visitor);
        }
    }
}

impl<M: Module + ?Sized> Module for Box<M> {
    fn visit(&self, visitor: &mut Visitor<'_>) {
        (**self).visit(visitor);
    }
}

impl<M: Module + ?Sized> Module for Arc<M> {
    fn visit(&self, visitor: &mut Visitor<'_>) {
        (**self).visit(visitor);
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_matches_any_characters_and_everything_else_itself() {
        for (pattern, name, expected) in [
            ("a.b", "a.b", true),
            ("a.b", "a.bc", false),
            ("*", "", true),
            ("h.0.*", "h.0.ln_1.weight", true),
            ("h.0.*", "h.00.ln_1.weight", false),
            ("*.bias", "h.0.ln_1.bias", true),
            ("*.bias", "bias", false),
            ("h.*.attn.*.weight", "h.11.attn.c_proj.weight", true),
            ("h.*.attn.*.weight", "h.11.mlp.c_proj.weight", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} on {name}");
        }
    }
}
