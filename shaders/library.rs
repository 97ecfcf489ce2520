//! The functions that WGSL lacks, and which of them a shader needs.

use std::fmt::Write;

/// A file of functions under `math/`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    Special,
    Exp,
    Log,
    Tanh,
    Erf,
    Trig,
    Pow,
    Rem,
    Convert,
    Extreme,
    Half,
    Philox,
}

/// Every part, those that others need first.
const ALL: [(Part, &str, &[Part]); 12] = [
    (Part::Special, include_str!("math/special.wgsl"), &[]),
    (Part::Exp, include_str!("math/exp.wgsl"), &[]),
    (Part::Log, include_str!("math/log.wgsl"), &[Part::Special]),
    (Part::Tanh, include_str!("math/tanh.wgsl"), &[Part::Exp]),
    (Part::Erf, include_str!("math/erf.wgsl"), &[Part::Exp]),
    (Part::Trig, include_str!("math/trig.wgsl"), &[]),
    (Part::Pow, include_str!("math/pow.wgsl"), &[Part::Special, Part::Exp, Part::Log]),
    (Part::Rem, include_str!("math/rem.wgsl"), &[Part::Special]),
    (Part::Convert, include_str!("math/convert.wgsl"), &[]),
    (Part::Extreme, include_str!("math/extreme.wgsl"), &[]),
    (Part::Half, include_str!("math/half.wgsl"), &[]),
    (Part::Philox, include_str!("math/philox.wgsl"), &[]),
];

/// The parts that one shader needs, in an order in which each stands once.
#[derive(Clone, Default, Debug)]
pub(crate) struct Library {
    parts: Vec<Part>,
}

impl Library {
    /// Adds a part and what it needs.
    pub(crate) fn need(&mut self, part: Part) {
        for (other, _, needs) in ALL {
            if other == part {
                self.parts.extend_from_slice(needs);
            }
        }
        self.parts.push(part);
    }

    /// Appends the text of all parts.
    pub(crate) fn write(&self, out: &mut String) {
        for (part, text, _) in ALL {
            if self.parts.contains(&part) {
                let _ = writeln!(out, "{text}");
            }
        }
    }
}

#[cfg(all(test, feature = "check"))]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_valid_with_the_parts_it_names() {
        for (part, _, _) in ALL {
            let mut library = Library::default();
            library.need(part);
            let mut text = String::new();
            library.write(&mut text);
            text += "@compute @workgroup_size(1) fn main() {}\n";
            crate::check(&text).unwrap_or_else(|e| panic!("{part:?}: {e}"));
        }
    }
}
