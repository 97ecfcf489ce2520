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
        // Looking for adapters starts drivers: where a family is named, only that one is asked.
        let family = requested.split(':').next();
        let all = match self.backends.iter().find(|b| family == Some(b.name())) {
            Some(backend) => backend.list(),
            None => self.list(),
        };
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
                    let all = self.list();
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A family whose devices are listed and cannot be opened.
    struct Listed(&'static str, Vec<DeviceKind>);

    impl Backend for Listed {
        fn name(&self) -> &'static str {
            self.0
        }

        fn list(&self) -> Vec<DeviceInfo> {
            let info = |(i, kind): (usize, &DeviceKind)| DeviceInfo {
                id: if self.0 == "cpu" { "cpu".to_owned() } else { format!("{}:{i}", self.0) },
                name: format!("{kind:?}"),
                kind: *kind,
                driver: String::new(),
                details: Vec::new(),
            };
            self.1.iter().enumerate().map(info).collect()
        }

        fn open(&self, id: &str) -> Result<DeviceHandle, DeviceError> {
            Err(DeviceError::NoDevice { requested: id.to_owned(), reason: "it is only listed".to_owned() })
        }
    }

    fn registry(gpus: &[DeviceKind]) -> Registry {
        let cpu = Listed("cpu", vec![DeviceKind::Cpu]);
        Registry::new(vec![Box::new(cpu), Box::new(Listed("gpu", gpus.to_vec()))])
    }

    fn chosen(gpus: &[DeviceKind], requested: &str) -> Result<String, String> {
        registry(gpus).choose(requested).map(|(id, _)| id).map_err(|e| e.to_string())
    }

    #[test]
    fn auto_prefers_real_adapters_and_never_takes_a_software_one() {
        use DeviceKind::{DiscreteGpu, IntegratedGpu, SoftwareGpu};
        assert_eq!(chosen(&[], "auto"), Ok("cpu".into()));
        assert_eq!(chosen(&[SoftwareGpu], "auto"), Ok("cpu".into()));
        assert_eq!(chosen(&[SoftwareGpu, IntegratedGpu, DiscreteGpu], "auto"), Ok("gpu:2".into()));
        assert_eq!(chosen(&[SoftwareGpu], "gpu"), Ok("gpu:0".into()));
        assert_eq!(chosen(&[SoftwareGpu], "cpu"), Ok("cpu".into()));
    }

    #[test]
    fn a_device_that_is_not_there_is_refused_with_what_there_is() {
        let error = chosen(&[DeviceKind::DiscreteGpu], "gpu:7").unwrap_err();
        assert!(error.contains("gpu:7") && error.contains("auto, gpu, cpu, gpu:0"), "{error}");
        assert!(chosen(&[], "gpu").unwrap_err().contains("mesa-vulkan-drivers"));
    }
}
