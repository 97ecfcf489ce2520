//! Rotary position embeddings (Su et al., *RoFormer*, 2021), with the scalings that Hugging Face's configurations know.
//!
//! Legend of shapes: b batch, t time, h heads, d width of a head, r rotated part of it, p positions.

use std::{
    f64::consts::TAU,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use wgrad_runtime::DeviceHandle;
use wgrad_tensor::Tensor;

use crate::decoder::Pass;

/// `rope_parameters` of a configuration (`rope_scaling` in older ones).
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct RopeParameters {
    /// `default`, `linear`, `dynamic`, `llama3` or `yarn`.
    #[serde(alias = "type", skip_serializing_if = "Option::is_none")]
    pub rope_type: Option<String>,
    /// The base of the wavelengths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_theta: Option<f64>,
    /// The share of a head's width that is rotated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partial_rotary_factor: Option<f64>,
    /// How many times longer the context is than the one of pre-training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub factor: Option<f64>,
    /// Of `llama3`: wavelengths above the original context over this are divided by `factor`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low_freq_factor: Option<f64>,
    /// Of `llama3`: wavelengths below the original context over this stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high_freq_factor: Option<f64>,
    /// The context of pre-training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original_max_position_embeddings: Option<f64>,
    /// Of `yarn`: what cosines and sines are multiplied by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention_factor: Option<f64>,
    /// Of `yarn`: turns within the original context above which a frequency stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta_fast: Option<f64>,
    /// Of `yarn`: turns below which a frequency is divided by `factor`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta_slow: Option<f64>,
    /// Of `yarn`: a part of the attention factor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mscale: Option<f64>,
    /// Of `yarn`: a part of the attention factor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mscale_all_dim: Option<f64>,
    /// Of `yarn`: whether the ramp begins and ends at whole frequencies; true if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncate: Option<bool>,
    /// The other keys.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// How frequencies of pre-training become those of use.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Scaling {
    Default,
    Linear {
        factor: f64,
    },
    /// The base grows with texts longer than the context (NTK-aware scaling, u/bloc97 and u/emozilla).
    Dynamic {
        factor: f64,
    },
    /// Grattafiori et al., *The Llama 3 Herd of Models*, 2024.
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        original: f64,
    },
    /// Peng et al., *YaRN*, 2023: frequencies between two bounds are mixed.
    Yarn {
        factor: f64,
        first: f64,
        last: f64,
        attention: f64,
    },
}

/// How many positions there are, and their cosines and sines.
type Tables = (usize, [Tensor; 2]);

/// Rotations by position of the first `r` elements of each head, in pairs `i` and `i + r/2`.
#[derive(Clone, Debug)]
pub(crate) struct Rotary {
    theta: f64,
    width: usize,
    max_positions: usize,
    scaling: Scaling,
    device: DeviceHandle,
    /// The tables made last, with the number of their positions.
    tables: Arc<Mutex<Option<Tables>>>,
}

impl Rotary {
    /// For heads of width `d`, and a context of `max_positions`.
    ///
    /// # Errors
    /// A sentence about the key that cannot be.
    pub(crate) fn new(
        parameters: &RopeParameters,
        d: usize,
        max_positions: usize,
        device: &DeviceHandle,
    ) -> Result<Self, String> {
        let theta = parameters.rope_theta.unwrap_or(10_000.0);
        if !(theta.is_finite() && theta > 0.0) {
            return Err(format!("`rope_theta` is {theta}, expected a number above 0"));
        }
        let share = parameters.partial_rotary_factor.unwrap_or(1.0);
        if !(share > 0.0 && share <= 1.0) {
            return Err(format!("`partial_rotary_factor` is {share}, expected a share in (0, 1]"));
        }
        let width = (d as f64 * share) as usize;
        if width < 2 || !width.is_multiple_of(2) {
            return Err(format!(
                "{width} of {d} elements of a head are to be rotated, expected an even number"
            ));
        }
        let scaling = scaling(parameters, theta, width, max_positions)?;
        Ok(Rotary { theta, width, max_positions, scaling, device: device.clone(), tables: Arc::default() })
    }

    /// Cosines and signed sines `[1 or b, t, 1, r]` for the positions of a pass.
    #[track_caller]
    pub(crate) fn at(&self, pass: &Pass<'_>, t: usize) -> [Tensor; 2] {
        self.tables(pass.reach(t)).map(|table| pass.rows_of(&table, t).unsqueeze(2))
    }

    /// `x [b, t, h, d]` with its pairs turned.
    #[track_caller]
    pub(crate) fn turn(&self, x: &Tensor, [cos, sin]: &[Tensor; 2]) -> Tensor {
        let [b, t, h, d] = x.dims::<4>();
        let r = self.width.min(d);
        let whole = r == d;
        let part = if whole { x.clone() } else { x.narrow(-1, 0, r) };
        // The other one of each pair: `sin` has its sign.
        let other = part.reshape([b, t, h, 2, r / 2]).flip(&[3]).reshape([b, t, h, r]);
        let turned = part.mul(cos.cast(x.dtype())).add(other.mul(sin.cast(x.dtype())));
        if whole { turned } else { Tensor::cat(&[&turned, &x.narrow(-1, r, d - r)], -1) }
    }

    /// Tables `[p, r]` for at least so many positions. They are computed in f64: angles are large.
    fn tables(&self, positions: usize) -> [Tensor; 2] {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        // With `dynamic`, frequencies depend on the length.
        let wanted = match self.scaling {
            Scaling::Dynamic { .. } => positions.max(1),
            _ => positions.max(1).next_power_of_two(),
        };
        if let Some((made, tables)) = &*tables
            && *made == wanted
        {
            return tables.clone();
        }
        let (frequencies, factor) = self.frequencies(positions);
        let half = self.width / 2;
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for position in 0..wanted {
            let angle = |i: usize| position as f64 * frequencies[i % half];
            cos.extend((0..self.width).map(|i| (angle(i).cos() * factor) as f32));
            let sign = |i: usize| if i < half { -1.0 } else { 1.0 };
            sin.extend((0..self.width).map(|i| (angle(i).sin() * factor * sign(i)) as f32));
        }
        let made = [cos, sin].map(|table| Tensor::from_vec(table, [wanted, self.width], &self.device));
        *tables = Some((wanted, made.clone()));
        made
    }

    /// Radians per position of each pair, and what cosines and sines are multiplied by.
    fn frequencies(&self, positions: usize) -> (Vec<f64>, f64) {
        let r = self.width as f64;
        let base = match self.scaling {
            Scaling::Dynamic { factor } => {
                let longer = positions.max(self.max_positions) as f64 / self.max_positions as f64;
                self.theta * (factor * longer - (factor - 1.0)).powf(r / (r - 2.0))
            }
            _ => self.theta,
        };
        let scaled = |(i, frequency): (usize, f64)| match self.scaling {
            Scaling::Default | Scaling::Dynamic { .. } => frequency,
            Scaling::Linear { factor } => frequency / factor,
            Scaling::Llama3 { factor, low, high, original } => {
                // Turns within the original context.
                let turns = original * frequency / TAU;
                let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                frequency * (kept + (1.0 - kept) / factor)
            }
            Scaling::Yarn { factor, first, last, .. } => {
                let scaled = ((i as f64 - first) / (last - first)).clamp(0.0, 1.0);
                frequency * (1.0 - scaled + scaled / factor)
            }
        };
        let plain = (0..self.width / 2).map(|i| base.powf(-2.0 * i as f64 / r)).enumerate();
        let attention = if let Scaling::Yarn { attention, .. } = self.scaling { attention } else { 1.0 };
        (plain.map(scaled).collect(), attention)
    }
}

fn scaling(p: &RopeParameters, theta: f64, width: usize, max_positions: usize) -> Result<Scaling, String> {
    let kind = p.rope_type.as_deref().unwrap_or("default");
    let positive = |key: &str, value: Option<f64>| match value {
        Some(value) if value.is_finite() && value > 0.0 => Ok(value),
        Some(value) => Err(format!("`{key}` of `rope_parameters` is {value}, expected a number above 0")),
        None => Err(format!("`rope_parameters` of type `{kind}` need `{key}`")),
    };
    let factor = || positive("factor", p.factor);
    let original = || {
        let given = p.original_max_position_embeddings.or(Some(max_positions as f64));
        positive("original_max_position_embeddings", given)
    };
    match kind {
        "default" => Ok(Scaling::Default),
        "linear" => Ok(Scaling::Linear { factor: factor()? }),
        "dynamic" if width > 2 => Ok(Scaling::Dynamic { factor: factor()? }),
        "llama3" => {
            let low = positive("low_freq_factor", p.low_freq_factor)?;
            let high = positive("high_freq_factor", p.high_freq_factor)?;
            if high <= low {
                return Err(format!("`high_freq_factor` ({high}) is not above `low_freq_factor` ({low})"));
            }
            Ok(Scaling::Llama3 { factor: factor()?, low, high, original: original()? })
        }
        "yarn" => {
            let (factor, original) = (factor()?, original()?);
            let r = width as f64;
            // The pair that makes so many turns within the original context.
            let pair = |turns: f64| r * (original / (turns * TAU)).ln() / (2.0 * theta.ln());
            let mut first = pair(positive("beta_fast", p.beta_fast.or(Some(32.0)))?);
            let mut last = pair(positive("beta_slow", p.beta_slow.or(Some(1.0)))?);
            if p.truncate != Some(false) {
                (first, last) = (first.floor(), last.ceil());
            }
            (first, last) = (first.max(0.0), last.min(r - 1.0));
            if first == last {
                last += 0.001;
            }
            let grown = |by: f64| if factor <= 1.0 { 1.0 } else { 0.1 * by * factor.ln() + 1.0 };
            let attention = match (p.attention_factor, p.mscale, p.mscale_all_dim) {
                (Some(given), ..) => given,
                (None, Some(a), Some(b)) if a != 0.0 && b != 0.0 => grown(a) / grown(b),
                _ => grown(1.0),
            };
            Ok(Scaling::Yarn { factor, first, last, attention })
        }
        other => {
            let known = "default, linear, dynamic, llama3, yarn";
            Err(format!("`rope_type` `{other}` is not supported; known: {known}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wgrad_cpu::CpuDevice;

    use super::*;

    fn rotary(parameters: RopeParameters) -> Result<Rotary, String> {
        let device: DeviceHandle = Arc::new(CpuDevice::new());
        Rotary::new(&RopeParameters { rope_theta: Some(100.0), ..parameters }, 16, 64, &device)
    }

    /// What `transformers` 5.23 computes (`ROPE_INIT_FUNCTIONS`), for heads of 16 and a context of 64.
    #[test]
    fn scaled_frequencies_are_those_of_transformers() {
        let of = |kind: &str, factor| RopeParameters {
            rope_type: Some(kind.to_owned()),
            factor: Some(factor),
            ..RopeParameters::default()
        };
        let cases = [
            (
                of("linear", 4.0),
                1,
                [0.25, 0.1405853, 0.07905694, 0.04445698, 0.025, 0.01405853, 0.007905695, 0.004445699],
                1.0,
            ),
            (
                of("dynamic", 2.0),
                160,
                [1.0, 0.4613085, 0.2128055, 0.09816898, 0.04528618, 0.0208909, 0.009637149, 0.004445699],
                1.0,
            ),
            (
                RopeParameters { original_max_position_embeddings: Some(16.0), ..of("yarn", 4.0) },
                1,
                [1.0, 0.3514633, 0.07905694, 0.04445698, 0.025, 0.01405853, 0.007905695, 0.004445699],
                1.138629436111989,
            ),
            (
                RopeParameters {
                    original_max_position_embeddings: Some(32.0),
                    beta_fast: Some(4.0),
                    beta_slow: Some(0.5),
                    truncate: Some(false),
                    mscale: Some(1.0),
                    mscale_all_dim: Some(0.5),
                    ..of("yarn", 8.0)
                },
                1,
                [1.0, 0.4832891, 0.1951755, 0.06668107, 0.01327513, 0.007029266, 0.003952847, 0.002222849],
                1.094179988101349,
            ),
            (
                RopeParameters {
                    original_max_position_embeddings: Some(32.0),
                    low_freq_factor: Some(1.0),
                    high_freq_factor: Some(4.0),
                    ..of("llama3", 8.0)
                },
                1,
                [1.0, 0.3760158, 0.09583998, 0.02222849, 0.0125, 0.007029266, 0.003952847, 0.002222849],
                1.0,
            ),
        ];
        for (parameters, positions, expected, attention) in cases {
            let kind = parameters.rope_type.clone();
            let (found, factor) = rotary(parameters).expect("the parameters are good").frequencies(positions);
            assert!((factor - attention).abs() < 1e-9, "{kind:?}: {factor}");
            for (found, expected) in found.iter().zip(expected) {
                assert!((found / expected - 1.0).abs() < 1e-6, "{kind:?}: {found} and {expected}");
            }
        }
    }

    #[test]
    fn parameters_that_cannot_be_are_refused_by_name() {
        let of =
            |kind: &str| RopeParameters { rope_type: Some(kind.to_owned()), ..RopeParameters::default() };
        for (parameters, part) in [
            (of("spiral"), "`rope_type` `spiral` is not supported; known: default"),
            (of("linear"), "of type `linear` need `factor`"),
            (RopeParameters { factor: Some(0.0), ..of("yarn") }, "`factor` of `rope_parameters` is 0"),
            (
                RopeParameters { partial_rotary_factor: Some(1.5), ..of("default") },
                "`partial_rotary_factor` is 1.5",
            ),
            (RopeParameters { partial_rotary_factor: Some(0.2), ..of("default") }, "3 of 16 elements"),
        ] {
            let message = rotary(parameters).expect_err("the parameters are bad");
            assert!(message.contains(part), "{message}");
        }
    }
}
