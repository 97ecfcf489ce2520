//! A table from the JSON lines of `cargo xtask bench` and of other frameworks' harnesses.

use std::{collections::BTreeMap, fmt::Write, fs, path::PathBuf};

use serde_json::Value;

use crate::Result;

/// Options of `cargo xtask results`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Files of JSON lines, one object per measured workload; lines that are no objects are passed over.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Replace what stands between the marks `<!-- table -->` and `<!-- /table -->` of this Markdown file, instead of printing.
    #[arg(long, value_name = "FILE")]
    into: Option<PathBuf>,
}

const BEGIN: &str = "<!-- table -->\n";
const END: &str = "<!-- /table -->";

/// Prints the table as Markdown, or writes it into a file.
///
/// # Errors
/// A file cannot be read or written, holds no measurement, or lacks the marks.
pub(crate) fn run(args: &Args) -> Result {
    let mut lines = Vec::new();
    for path in &args.files {
        let text = fs::read_to_string(path).map_err(|e| format!("cannot read `{}`: {e}", path.display()))?;
        lines.extend(text.lines().filter_map(measurement));
    }
    if lines.is_empty() {
        return Err("no JSON line with `peer` and `workload` was found".into());
    }
    let table = table(&lines);
    let Some(path) = &args.into else {
        print!("{table}");
        return Ok(());
    };
    let text = fs::read_to_string(path).map_err(|e| format!("cannot read `{}`: {e}", path.display()))?;
    let marked = text.split_once(BEGIN).and_then(|(head, rest)| Some((head, rest.split_once(END)?.1)));
    let (head, tail) = marked
        .ok_or_else(|| format!("`{}` lacks the marks `{}` and `{END}`", path.display(), BEGIN.trim()))?;
    Ok(fs::write(path, format!("{head}{BEGIN}{table}{END}{tail}"))?)
}

/// A line that tells who measured what.
fn measurement(line: &str) -> Option<Value> {
    let value: Value = serde_json::from_str(line.trim()).ok()?;
    (value.get("peer")?.is_string() && value.get("workload")?.is_string()).then_some(value)
}

/// One section per workload, the fastest first. Of several lines of one peer and backend, the one with the least time counts.
fn table(lines: &[Value]) -> String {
    let mut workloads: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for line in lines {
        workloads.entry(text(line, "workload")).or_default().push(line);
    }
    let mut out = String::new();
    for (workload, mut lines) in workloads {
        lines.sort_by(|a, b| seconds(a).total_cmp(&seconds(b)));
        let mut seen = Vec::new();
        lines.retain(|l| {
            let who = (text(l, "peer"), text(l, "backend"));
            let first = !seen.contains(&who);
            seen.push(who);
            first
        });
        let _ = writeln!(out, "### {workload}\n");
        let _ = writeln!(
            out,
            "| framework | backend | ms a step | tokens/s | GFLOP/s | first step, s | kernels | MB moved | peak MB |"
        );
        let _ = writeln!(out, "|---|---|--:|--:|--:|--:|--:|--:|--:|");
        for line in lines {
            let cell = |keys: &[&str], factor: f64, digits: usize| {
                number(line, keys).map_or(String::new(), |n| format!("{:.digits$}", n * factor))
            };
            // Peers tell the memory of their process, wgrad that of the program.
            let peak = match cell(&["peak_bytes"], 1e-6, 0) {
                none if none.is_empty() => match cell(&["peak_rss_mib"], 1.048_576, 0) {
                    none if none.is_empty() => none,
                    process => format!("{process} (process)"),
                },
                program => program,
            };
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {peak} |",
                text(line, "peer"),
                text(line, "backend"),
                cell(&["step_s_median", "s_median"], 1e3, 2),
                cell(&["tokens_per_s"], 1.0, 0),
                cell(&["gflops"], 1.0, 0),
                cell(&["first_step_s", "first_s"], 1.0, 2),
                cell(&["dispatches"], 1.0, 0),
                cell(&["bytes_moved"], 1e-6, 0),
            );
        }
        out.push('\n');
    }
    out
}

fn text<'a>(line: &'a Value, key: &str) -> &'a str {
    line.get(key).and_then(Value::as_str).unwrap_or("")
}

fn number(line: &Value, keys: &[&str]) -> Option<f64> {
    keys.iter().find_map(|key| line.get(key)?.as_f64())
}

fn seconds(line: &Value) -> f64 {
    number(line, &["step_s_median", "s_median"]).unwrap_or(f64::INFINITY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_all_frameworks_make_one_table_with_the_fastest_first() {
        let lines = r#"
            {"peer":"wgrad","backend":"cpu","workload":"gpt-nano","step_s_median":0.04,"tokens_per_s":25600.0,"dispatches":99,"bytes_moved":2000000,"peak_bytes":30000000,"gflops":300.0,"first_step_s":0.5}
            {"peer":"other-1.0","backend":"cpu","workload":"gpt-nano","step_s_median":0.02,"tokens_per_s":51200.0,"peak_rss_mib":100}
            {"peer":"other-1.0","backend":"cpu","workload":"gpt-nano","step_s_median":0.03}
            {"peer":"other-1.0","backend":"cpu","workload":"matmul","s_median":0.005,"gflops":430.5,"first_s":0.01}
            a warning that is no JSON
            {"no":"measurement"}"#;
        let lines: Vec<Value> = lines.lines().filter_map(measurement).collect();
        assert_eq!(lines.len(), 4);
        let table = table(&lines);
        let rows: Vec<&str> =
            table.lines().filter(|l| l.starts_with("| other") || l.starts_with("| wgrad")).collect();
        assert_eq!(
            rows,
            [
                "| other-1.0 | cpu | 20.00 | 51200 |  |  |  |  | 105 (process) |",
                "| wgrad | cpu | 40.00 | 25600 | 300 | 0.50 | 99 | 2 | 30 |",
                "| other-1.0 | cpu | 5.00 |  | 430 | 0.01 |  |  |  |",
            ]
        );
    }
}
