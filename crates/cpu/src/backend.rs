//! The CPU in the list of devices.

use std::sync::Arc;

use sysinfo::{CpuRefreshKind, System};
use wgrad_runtime::{
    Backend, DeviceError, DeviceHandle, DeviceInfo, DeviceKind, available_memory, human_bytes,
};

use crate::CpuDevice;

/// The family of one: the processor that this process runs on.
#[derive(Clone, Copy, Default, Debug)]
pub struct CpuBackend;

impl Backend for CpuBackend {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn list(&self) -> Vec<DeviceInfo> {
        vec![info()]
    }

    fn open(&self, id: &str) -> Result<DeviceHandle, DeviceError> {
        if id != "cpu" {
            return Err(DeviceError::NoDevice {
                requested: id.to_owned(),
                reason: "the CPU runtime has one device, `cpu`".to_owned(),
            });
        }
        Ok(Arc::new(CpuDevice::new()))
    }
}

/// The processor as people see it.
pub(crate) fn info() -> DeviceInfo {
    let name = System::new().ok().and_then(|mut system| {
        system.refresh_cpu_list(CpuRefreshKind::nothing());
        let brand = system.cpus().first()?.brand().trim().to_owned();
        (!brand.is_empty()).then_some(brand)
    });
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let details = [
        ("cores", cores.to_string()),
        ("threads in use", rayon::current_num_threads().to_string()),
        ("SIMD", simd_level().to_owned()),
        ("available memory", human_bytes(available_memory())),
        ("dtypes", "f64, f32, i32, u32, bool".to_owned()),
    ];
    DeviceInfo {
        id: "cpu".to_owned(),
        name: name.unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        kind: DeviceKind::Cpu,
        driver: "native".to_owned(),
        details: details.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
    }
}

/// The instructions that loops are compiled to.
fn simd_level() -> &'static str {
    match format!("{:?}", pulp::Arch::new()) {
        level if level.starts_with("V4") => "AVX-512",
        level if level.starts_with("V3") => "AVX2 and FMA",
        level if level.starts_with("Neon") => "NEON",
        _ => "none",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_listed_and_opens_under_its_id() {
        let info = &CpuBackend.list()[0];
        assert_eq!((info.id.as_str(), info.kind), ("cpu", DeviceKind::Cpu));
        assert!(CpuBackend.open("cpu").is_ok() && CpuBackend.open("cpu:1").is_err());
    }
}
