//! Whether there is a GPU adapter to test on, and getting a software one where there is none.

use std::process::{Command, Stdio};

use wgrad::runtime::DeviceKind;

use crate::Result;

/// Lists the adapters of this process's view of the machine.
///
/// # Errors
/// There is none.
pub(crate) fn list() -> Result {
    let found: Vec<_> = wgrad::devices().list().into_iter().filter(|i| i.kind != DeviceKind::Cpu).collect();
    for info in &found {
        println!("{}: {} ({})", info.id, info.name, info.driver);
    }
    if found.is_empty() { Err("no Vulkan, Metal or DX12 adapter".into()) } else { Ok(()) }
}

/// Whether GPU tests are left out because `WGRAD_TEST_DEVICES=cpu` says so.
pub(crate) fn left_out() -> bool {
    std::env::var("WGRAD_TEST_DEVICES").is_ok_and(|v| v == "cpu")
}

/// Makes sure that an adapter is there, installing Mesa's software Vulkan on a Debian-like system.
///
/// # Errors
/// There is no adapter and none can be installed; the message says what to install.
pub(crate) fn ensure() -> Result {
    if left_out() || probe(true) {
        return Ok(());
    }
    let advice = "no Vulkan, Metal or DX12 adapter was found. Install a driver (Mesa's software Vulkan will do: \
        `apt-get install mesa-vulkan-drivers` on Debian, `dnf install mesa-vulkan-drivers` on Fedora, \
        `pacman -S vulkan-swrast` on Arch), or set WGRAD_TEST_DEVICES=cpu to leave the GPU tests out";
    if !runs("apt-get", &["--version"]) {
        return Err(advice.into());
    }
    println!("no adapter was found: installing Mesa's software Vulkan (mesa-vulkan-drivers)");
    let install = ["install", "-y", "-q", "--no-install-recommends", "mesa-vulkan-drivers"];
    let sudo = !runs("sh", &["-c", "test $(id -u) -eq 0"]);
    for arguments in [["update", "-q"].as_slice(), install.as_slice()] {
        let mut command = Command::new(if sudo { "sudo" } else { "apt-get" });
        if sudo {
            command.args(["-n", "apt-get"]);
        }
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null());
        if !command.status().is_ok_and(|s| s.success()) {
            return Err(format!("`apt-get {}` failed; {advice}", arguments.join(" ")).into());
        }
    }
    if probe(true) { Ok(()) } else { Err(format!("still none after the installation: {advice}").into()) }
}

/// Asks a fresh process, since drivers are looked up once per process.
fn probe(show: bool) -> bool {
    let Ok(me) = std::env::current_exe() else { return false };
    let output = Command::new(me).arg("adapters").output();
    let Ok(output) = output else { return false };
    if show && output.status.success() {
        print!("{}", String::from_utf8_lossy(&output.stdout));
    }
    output.status.success()
}

fn runs(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}
