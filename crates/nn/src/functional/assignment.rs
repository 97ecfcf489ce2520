//! Matching at least cost, on the host.

use wgrad_tensor::{DType, Tensor};

use crate::NnError;

/// The rows and columns, each used at most once, `min(n, m)` of them, whose sum of `costs [n, m]` is smallest, by ascending row: by
/// shortest augmenting paths (Jonker and Volgenant, 1987; Crouse, *On implementing 2D rectangular assignment algorithms*, 2016).
/// SciPy's `linear_sum_assignment`; DETR matches predictions with objects by it.
///
/// # Errors
/// `costs` is no matrix, or holds NaN or a cost of -∞, or allows no complete matching at finite cost; reading it fails.
pub fn linear_sum_assignment(costs: &Tensor) -> Result<(Vec<usize>, Vec<usize>), NnError> {
    costs.check()?;
    let &[n, m] = costs.shape().dims() else {
        return Err(invalid(format!("expects a matrix of costs, got {}", costs.shape())));
    };
    let elements: Vec<f64> = match costs.dtype() {
        DType::F64 => costs.to_vec()?,
        _ => costs.cast(DType::F32).to_vec::<f32>()?.into_iter().map(f64::from).collect(),
    };
    if let Some(bad) = elements.iter().position(|c| c.is_nan() || *c == f64::NEG_INFINITY) {
        return Err(invalid(format!(
            "costs must be numbers above -inf; [{}, {}] is {}",
            bad / m,
            bad % m,
            elements[bad]
        )));
    }
    let transposed = n > m;
    let (rows, columns) = if transposed { (m, n) } else { (n, m) };
    let cost = |r: usize, c: usize| if transposed { elements[c * m + r] } else { elements[r * m + c] };
    let Some(of_row) = assign(rows, columns, cost) else {
        return Err(invalid("no matching of all rows has a finite cost".into()));
    };
    let mut pairs: Vec<(usize, usize)> = of_row.into_iter().enumerate().collect();
    if transposed {
        pairs = pairs.into_iter().map(|(r, c)| (c, r)).collect();
        pairs.sort_unstable();
    }
    Ok(pairs.into_iter().unzip())
}

fn invalid(message: String) -> NnError {
    NnError::Invalid { op: "linear_sum_assignment", message }
}

/// The column of each row; `rows <= columns`. `None` where some row cannot be matched at finite cost.
fn assign(rows: usize, columns: usize, cost: impl Fn(usize, usize) -> f64) -> Option<Vec<usize>> {
    // Dual prices, and who is matched with whom.
    let (mut u, mut v) = (vec![0.0; rows], vec![0.0; columns]);
    let (mut column_of, mut row_of) = (vec![usize::MAX; rows], vec![usize::MAX; columns]);
    for start in 0..rows {
        let mut shortest = vec![f64::INFINITY; columns];
        let mut parent = vec![usize::MAX; columns];
        let mut open: Vec<usize> = (0..columns).collect();
        let mut tree_rows = vec![start];
        let mut tree_columns = Vec::new();
        let (mut row, mut length) = (start, 0.0);
        // Dijkstra over reduced costs until a free column.
        let sink = loop {
            let mut best: Option<usize> = None;
            for (at, &j) in open.iter().enumerate() {
                let through = length + cost(row, j) - u[row] - v[j];
                if through < shortest[j] {
                    shortest[j] = through;
                    parent[j] = row;
                }
                let better = |b: usize| {
                    let other = open[b];
                    shortest[j] < shortest[other]
                        || shortest[j] == shortest[other]
                            && row_of[j] == usize::MAX
                            && row_of[other] != usize::MAX
                };
                if best.is_none_or(better) {
                    best = Some(at);
                }
            }
            let at = best?;
            let j = open[at];
            length = shortest[j];
            if length == f64::INFINITY {
                return None;
            }
            open.swap_remove(at);
            tree_columns.push(j);
            if row_of[j] == usize::MAX {
                break j;
            }
            row = row_of[j];
            tree_rows.push(row);
        };
        u[start] += length;
        for &i in tree_rows.iter().skip(1) {
            u[i] += length - shortest[column_of[i]];
        }
        for &j in &tree_columns {
            v[j] -= length - shortest[j];
        }
        let mut j = sink;
        loop {
            let i = parent[j];
            row_of[j] = i;
            std::mem::swap(&mut column_of[i], &mut j);
            if i == start {
                break;
            }
        }
    }
    Some(column_of)
}
