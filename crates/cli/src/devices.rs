//! `wgrad devices`

use std::process::ExitCode;

use crate::Failure;

pub(crate) fn run() -> Result<ExitCode, Failure> {
    let registry = wgrad::devices();
    for info in registry.list() {
        println!("{}  {} ({})", info.id, info.name, info.driver);
        let width = info.details.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in &info.details {
            println!("    {name:width$}  {value}");
        }
    }
    let (id, reason) = registry.choose("auto")?;
    println!("\n`--device auto` picks {id}: {reason}.");
    Ok(ExitCode::SUCCESS)
}
