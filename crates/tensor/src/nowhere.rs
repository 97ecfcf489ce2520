//! The device of a tensor that was made from no operands at all, such as the concatenation of nothing. It carries an error
//! and is never evaluated; its device only has to exist.

use std::{
    ops::Range,
    sync::{Arc, LazyLock},
};

use wgrad_ir::{DType, DeviceCaps, Program};
use wgrad_runtime::{
    Buffer, Device, DeviceError, DeviceHandle, DeviceInfo, DeviceKind, DeviceStats, Executable, ProgramCache,
    Readback,
};

#[derive(Debug)]
struct Nowhere {
    info: DeviceInfo,
    caps: DeviceCaps,
    cache: ProgramCache,
}

/// A device on which nothing can be done.
pub(crate) fn nowhere() -> &'static DeviceHandle {
    static NOWHERE: LazyLock<DeviceHandle> = LazyLock::new(|| {
        let info = DeviceInfo {
            id: "none".into(),
            name: "no device".into(),
            kind: DeviceKind::Cpu,
            driver: String::new(),
            details: Vec::new(),
        };
        Arc::new(Nowhere { info, caps: DeviceCaps::cpu(), cache: ProgramCache::new(0) })
    });
    &NOWHERE
}

impl Nowhere {
    fn refuse<T>(&self) -> Result<T, DeviceError> {
        let message = "a tensor made from no operands is on no device".into();
        Err(DeviceError::Misuse { device: self.info.name.clone(), message })
    }
}

impl Device for Nowhere {
    fn uid(&self) -> u64 {
        0
    }

    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn caps(&self) -> &DeviceCaps {
        &self.caps
    }

    fn cache(&self) -> &ProgramCache {
        &self.cache
    }

    fn upload(&self, _: &[u8], _: DType) -> Result<Buffer, DeviceError> {
        self.refuse()
    }

    fn read_range(&self, _: &Buffer, _: DType, _: Range<usize>) -> Result<Readback, DeviceError> {
        self.refuse()
    }

    fn prepare(&self, _: Arc<Program>) -> Result<Arc<dyn Executable>, DeviceError> {
        self.refuse()
    }

    fn synchronize(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn set_profiling(&self, _: bool) -> Result<(), DeviceError> {
        self.refuse()
    }

    fn stats(&self) -> DeviceStats {
        DeviceStats::default()
    }
}
