//! Picking a device by name.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, PoisonError},
};

use crate::{DeviceError, DeviceHandle, DeviceInfo, DeviceKind};

/// A family of devices: the native CPU, or the adapters that wgpu finds.
pub trait Backend: Send + Sync {
    /// The prefix of its devices' ids: `cpu`, `gpu`.
    fn name(&self) -> &'static str;

    /// The devices that are there now.
    fn list(&self) -> Vec<DeviceInfo>;

    /// Opens the device with that id.
    ///
    /// # Errors
    /// It is not there or does not open.
    fn open(&self, id: &str) -> Result<DeviceHandle, DeviceError>;
}

/// A device and why it was picked.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The device.
    pub device: DeviceHandle,
    /// One sentence for the log.
    pub reason: String,
}

/// The devices of this machine. A device is opened once and shared, with its pool and its programs.
pub struct Registry {
    backends: Vec<Box<dyn Backend>>,
    opened: Mutex<HashMap<String, DeviceHandle>>,
}

impl Registry {
    /// A registry over the given families, in the order in which to list them.
    pub fn new(backends: Vec<Box<dyn Backend>>) -> Self {
        Registry { backends, opened: Mutex::default() }
    }

    /// Every device of every family.
    pub fn list(&self) -> Vec<DeviceInfo> {
        self.backends.iter().flat_map(|b| b.list()).collect()
    }

    /// The id that `requested` means, and why:
    /// - `auto`: a real GPU (discrete before integrated before virtual), else the CPU; never a software adapter, which is
    ///   slower than the CPU runtime;
    /// - `gpu`: the best adapter, software included;
    /// - an id from [`Registry::list`].
    ///
    /// # Errors
    /// Nothing matches; the message lists what there is.
    pub fn choose(&self, requested: &str) -> Result<(String, String), DeviceError> {
        let all = self.list();
        let best = |software: bool| {
            let rank = |i: &DeviceInfo| match i.kind {
                DeviceKind::DiscreteGpu => Some(0),
                DeviceKind::IntegratedGpu => Some(1),
                DeviceKind::VirtualGpu => Some(2),
                DeviceKind::SoftwareGpu => software.then_some(3),
                DeviceKind::Cpu => None,
            };
            all.iter().filter_map(|i| Some((rank(i)?, i))).min_by_key(|(rank, _)| *rank).map(|(_, i)| i)
        };
        let no = |reason: String| Err(DeviceError::NoDevice { requested: requested.to_owned(), reason });
        match requested {
            "auto" => match best(false) {
                Some(gpu) => Ok((gpu.id.clone(), format!("{} is a real GPU", gpu.name))),
                None => match all.iter().find(|i| i.kind == DeviceKind::Cpu) {
                    Some(cpu) => {
                        let software = all.iter().any(|i| i.kind == DeviceKind::SoftwareGpu);
                        let why = if software {
                            "only software adapters were found, and the CPU runtime is faster than they are"
                        } else {
                            "no GPU was found"
                        };
                        Ok((cpu.id.clone(), why.to_owned()))
                    }
                    None => no("no device was found".to_owned()),
                },
            },
            "gpu" => match best(true) {
                Some(gpu) => Ok((gpu.id.clone(), format!("{} is the best adapter", gpu.name))),
                None => no("no Vulkan, Metal or DX12 adapter was found; install a driver (on Debian, \
                    `apt-get install mesa-vulkan-drivers` gives a software one), or use `--device cpu`"
                    .to_owned()),
            },
            id => match all.iter().find(|i| i.id == id) {
                Some(info) => Ok((info.id.clone(), "it was asked for".to_owned())),
                None => {
                    let ids: Vec<&str> = all.iter().map(|i| i.id.as_str()).collect();
                    no(format!("there are: auto, gpu, {}", ids.join(", ")))
                }
            },
        }
    }

    /// Opens the device that `requested` means (see [`Registry::choose`]), or returns the one that is open already.
    ///
    /// # Errors
    /// Nothing matches, or the device does not open.
    pub fn open(&self, requested: &str) -> Result<Opened, DeviceError> {
        let (id, reason) = self.choose(requested)?;
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(device) = opened.get(&id) {
            return Ok(Opened { device: device.clone(), reason });
        }
        let family = id.split(':').next().unwrap_or_default();
        let Some(backend) = self.backends.iter().find(|b| b.name() == family) else {
            return Err(DeviceError::NoDevice {
                requested: id,
                reason: "its family is not registered".to_owned(),
            });
        };
        let device = backend.open(&id)?;
        opened.insert(id, device.clone());
        Ok(Opened { device, reason })
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.backends.iter().map(|b| b.name())).finish()
    }
}
