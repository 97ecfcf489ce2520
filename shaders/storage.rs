//! How elements lie in buffers, and the text that loads and stores them.
//!
//! Most elements take a word. 16-bit floats lie two to a word, and are `f32` in registers. Four neighbours are stored as whole
//! words; a single one shares its word with a neighbour that another invocation may store at the same time, so it is put into the
//! word by two atomic operations, which touch its own half alone.

use wgrad_ir::DType;

use crate::{KernelError, bindings::value_type, expr::Emitter, library::Part};

/// The WGSL type of a stored element, or of two of them: `bool` and `u8` take a word.
pub(crate) fn storage_type(what: &'static str, dtype: DType) -> Result<&'static str, KernelError> {
    match dtype {
        DType::Bool | DType::U8 | DType::F16 | DType::BF16 => Ok("u32"),
        DType::F64 | DType::F32 | DType::I32 | DType::U32 => value_type(what, dtype),
    }
}

/// The WGSL type of four stored neighbours.
pub(crate) fn four_type(what: &'static str, dtype: DType) -> Result<String, KernelError> {
    Ok(if dtype.is_half() { "vec2<u32>".into() } else { format!("vec4<{}>", storage_type(what, dtype)?) })
}

impl Emitter<'_> {
    /// The buffer of an argument whose elements are loaded or stored one at a time.
    pub(crate) fn singles(&mut self, arg: u32, dtype: DType, writable: bool) -> Result<String, KernelError> {
        let element =
            if self.shared.contains(&arg) { "atomic<u32>" } else { storage_type(self.what, dtype)? };
        self.bindings.arg(arg, element, writable)
    }

    /// The buffer of an argument whose elements are loaded or stored four at a time.
    pub(crate) fn fours(&mut self, arg: u32, dtype: DType, writable: bool) -> Result<String, KernelError> {
        self.bindings.arg(arg, &four_type(self.what, dtype)?, writable)
    }

    /// The value at an address, an `i32` expression.
    pub(crate) fn load(&mut self, arg: u32, dtype: DType, address: &str) -> Result<String, KernelError> {
        let buffer = self.singles(arg, dtype, false)?;
        Ok(match dtype {
            DType::Bool => format!("({buffer}[{address}] != 0u)"),
            DType::F16 | DType::BF16 => {
                let word = format!("{buffer}[u32({address}) / 2u]");
                let word = if self.shared.contains(&arg) { format!("atomicLoad(&{word})") } else { word };
                self.unrounded(dtype, &format!("w_half({word}, {address})"))
            }
            _ => format!("{buffer}[{address}]"),
        })
    }

    /// A statement that stores a value at an address, an `i32` expression.
    pub(crate) fn store(
        &mut self,
        arg: u32,
        dtype: DType,
        address: &str,
        value: &str,
    ) -> Result<String, KernelError> {
        if dtype.is_half() && !self.shared.contains(&arg) {
            return Err(KernelError::Inconsistent(format!("a{arg} is stored by halves of words")));
        }
        let buffer = self.singles(arg, dtype, true)?;
        Ok(match dtype {
            DType::Bool => format!("{buffer}[{address}] = u32({value});"),
            DType::F16 | DType::BF16 => {
                let half = self.half_bits(dtype, value);
                format!(
                    "{{ let at = u32({address}); let shift = 16u * (at & 1u); let half = {half} << shift; \
                     atomicAnd(&{buffer}[at / 2u], 0xffff0000u >> shift); atomicOr(&{buffer}[at / 2u], half); }}"
                )
            }
            _ => format!("{buffer}[{address}] = {value};"),
        })
    }

    /// Four values from what [`Emitter::fours`] holds at a quarter of their address.
    pub(crate) fn unpacked(&mut self, dtype: DType, four: &str) -> [String; 4] {
        let lanes = [0, 1, 2, 3];
        match dtype {
            DType::Bool => lanes.map(|l| format!("({four}[{l}] != 0u)")),
            DType::F16 | DType::BF16 => {
                lanes.map(|l| self.unrounded(dtype, &format!("w_half({four}[{}], {}i)", l / 2, l % 2)))
            }
            _ => lanes.map(|l| format!("{four}[{l}]")),
        }
    }

    /// What [`Emitter::fours`] holds for four values.
    pub(crate) fn packed(&mut self, dtype: DType, values: &[String; 4]) -> Result<String, KernelError> {
        if dtype.is_half() {
            let [a, b, c, d] = values.each_ref().map(|v| self.half_bits(dtype, v));
            return Ok(format!("vec2<u32>({a} | ({b} << 16u), {c} | ({d} << 16u))"));
        }
        let each = if dtype == DType::Bool { |v: &String| format!("u32({v})") } else { String::clone };
        Ok(format!("{}({})", four_type(self.what, dtype)?, values.each_ref().map(each).join(", ")))
    }

    /// As [`Emitter::packed`], of a vector of four values.
    pub(crate) fn packed_vector(&mut self, dtype: DType, vector: &str) -> Result<String, KernelError> {
        match dtype {
            DType::F16 | DType::BF16 => self.packed(dtype, &[0, 1, 2, 3].map(|l| format!("{vector}[{l}]"))),
            DType::Bool => Ok(format!("vec4<u32>({vector})")),
            _ => Ok(vector.to_owned()),
        }
    }

    /// A value of the bits of a 16-bit float.
    pub(crate) fn unrounded(&mut self, dtype: DType, bits: &str) -> String {
        self.library.need(Part::Half);
        format!("w_from_{}({bits})", dtype.name())
    }

    fn half_bits(&mut self, dtype: DType, value: &str) -> String {
        self.library.need(Part::Half);
        format!("w_to_{}({value})", dtype.name())
    }

    /// A value rounded to a 16-bit float.
    pub(crate) fn rounded(&mut self, dtype: DType, value: &str) -> String {
        let bits = self.half_bits(dtype, value);
        self.unrounded(dtype, &bits)
    }

    /// Declares which 16-bit results are stored one at a time: `stores` are all stores of the kernel, with whether each is of fours.
    pub(crate) fn share_words(&mut self, stores: impl Iterator<Item = (u32, DType, bool)>) {
        for (arg, dtype, fours) in stores {
            if dtype.is_half() && !fours && !self.shared.contains(&arg) {
                self.shared.push(arg);
            }
        }
    }
}
