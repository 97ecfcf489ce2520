//! Matching at least cost, against every permutation.

use wgrad_cpu::CpuDevice;
use wgrad_nn::functional::linear_sum_assignment;
use wgrad_tensor::{DeviceHandle, Tensor};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn device() -> DeviceHandle {
    std::sync::Arc::new(CpuDevice::new())
}

/// The least cost by trying everything: row by row, each column once, rows left out where there are more of them.
fn least(costs: &[f64], (n, m): (usize, usize), row: usize, used: u32) -> f64 {
    let left = m - used.count_ones() as usize;
    if row == n || left == 0 {
        return 0.0;
    }
    let mut best = f64::INFINITY;
    if n - row > left {
        best = least(costs, (n, m), row + 1, used);
    }
    for c in (0..m).filter(|c| used >> c & 1 == 0) {
        best = best.min(costs[row * m + c] + least(costs, (n, m), row + 1, used | 1 << c));
    }
    best
}

#[test]
fn no_other_matching_costs_less() -> Outcome {
    let device = device();
    let shapes = [(1, 1), (1, 5), (5, 1), (4, 4), (6, 3), (3, 6), (6, 6)];
    for (seed, (n, m)) in shapes.into_iter().cycle().take(70).enumerate() {
        // Few distinct values, so that many matchings tie.
        let draw = wgrad_nn::Initializer::Normal { std: 2.0 }.draw(&[n, m], seed as u64, 0);
        let costs: Vec<f64> = if seed % 2 == 0 { draw.iter().map(|c| c.round()).collect() } else { draw };
        let (rows, columns) = linear_sum_assignment(&Tensor::from_vec(costs.clone(), [n, m], &device))?;
        assert_eq!(rows.len(), n.min(m));
        assert!(rows.windows(2).all(|w| w[0] < w[1]), "rows ascend");
        let mut distinct = columns.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), columns.len(), "a column twice");
        let found: f64 = rows.iter().zip(&columns).map(|(r, c)| costs[r * m + c]).sum();
        let expected = least(&costs, (n, m), 0, 0);
        assert!((found - expected).abs() < 1e-9, "{n}x{m}, seed {seed}: {found} instead of {expected}");
    }
    Ok(())
}

#[test]
fn an_empty_side_matches_nothing() -> Outcome {
    let device = device();
    let (rows, columns) = linear_sum_assignment(&Tensor::from_vec(Vec::<f32>::new(), [0, 3], &device))?;
    assert!(rows.is_empty() && columns.is_empty());
    Ok(())
}

#[test]
fn costs_without_a_finite_matching_are_refused() {
    let device = device();
    let of = |costs: Vec<f64>| linear_sum_assignment(&Tensor::from_vec(costs, [2, 2], &device));
    let message = |costs| of(costs).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(message(vec![f64::NAN, 0.0, 0.0, 0.0]).contains("[0, 0] is NaN"));
    let inf = f64::INFINITY;
    assert!(message(vec![inf, inf, 0.0, 0.0]).contains("no matching"));
    // A way around what is forbidden is found.
    assert_eq!(of(vec![inf, 1.0, 1.0, 0.0]).map(|p| p.1).unwrap_or_default(), [1, 0]);
    let vector = Tensor::from_vec(vec![1.0f64], [1], &device);
    assert!(linear_sum_assignment(&vector).is_err());
}
