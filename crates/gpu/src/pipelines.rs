//! Compute pipelines by shader text.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use wgpu::{
    BindGroupLayout, BindGroupLayoutDescriptor, BindGroupLayoutEntry, BindingType, BufferBindingType,
    ComputePipeline, ComputePipelineDescriptor, Device, PipelineCompilationOptions, PipelineLayoutDescriptor,
    ShaderModuleDescriptor, ShaderRuntimeChecks, ShaderSource, ShaderStages,
};
use wgrad_kernels::Dispatch;
use wgrad_runtime::DeviceError;

use crate::faults::Faults;

/// A pipeline and the layout of its one bind group.
pub(crate) struct Pipeline {
    pub(crate) compute: ComputePipeline,
    pub(crate) layout: BindGroupLayout,
}

/// The pipelines of one device.
#[derive(Default)]
pub(crate) struct Pipelines {
    by_source: Mutex<HashMap<Arc<str>, Arc<Pipeline>>>,
    made: AtomicU64,
}

impl Pipelines {
    /// The pipeline for each dispatch: found by its text, else built, several at a time. Labels name them in the driver's
    /// messages.
    pub(crate) fn get_all(
        &self,
        device: &Device,
        faults: &Faults,
        dispatches: &[(&Dispatch, &str)],
    ) -> Result<Vec<Arc<Pipeline>>, DeviceError> {
        let mut missing: Vec<(&Dispatch, &str)> = Vec::new();
        {
            let known = self.lock();
            let mut seen = HashSet::new();
            missing.extend(dispatches.iter().filter(|(dispatch, _)| {
                !known.contains_key(&dispatch.source) && seen.insert(&dispatch.source)
            }));
        }
        let next = AtomicUsize::new(0);
        let work = || -> Result<(), DeviceError> {
            while let Some((dispatch, label)) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.make(device, faults, dispatch, label)?;
            }
            Ok(())
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(missing.len());
        std::thread::scope(|scope| {
            // This thread works, too.
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mine = work();
            others.into_iter().fold(mine, |sofar, other| {
                let theirs = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                sofar.and(theirs)
            })
        })?;
        let known = self.lock();
        let found = dispatches.iter().map(|(dispatch, _)| known.get(&dispatch.source).cloned());
        // All are there now: what is known is never forgotten.
        Ok(found.flatten().collect())
    }

    fn make(
        &self,
        device: &Device,
        faults: &Faults,
        dispatch: &Dispatch,
        label: &str,
    ) -> Result<(), DeviceError> {
        let doing = format!("the shader of kernel `{label}`");
        let built = faults.scoped(device, &doing, 0, || build(device, dispatch, label))?;
        self.made.fetch_add(1, Ordering::Relaxed);
        self.lock().entry(dispatch.source.clone()).or_insert(Arc::new(built));
        Ok(())
    }

    /// Pipelines built so far.
    pub(crate) fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, Arc<Pipeline>>> {
        self.by_source.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn build(device: &Device, dispatch: &Dispatch, label: &str) -> Pipeline {
    let descriptor =
        ShaderModuleDescriptor { label: Some(label), source: ShaderSource::Wgsl((&*dispatch.source).into()) };
    let checks = ShaderRuntimeChecks {
        bounds_checks: cfg!(debug_assertions),
        // wgpu's bound on every loop keeps drivers from unrolling them.
        force_loop_bounding: false,
        ..ShaderRuntimeChecks::checked()
    };
    // SAFETY: the text comes from `wgrad_kernels` alone. Its loops end: they count up to constants, or follow a chain of ascending
    // indices. Its addresses lie within the buffers: `ir::verify_program` checks every view against its buffer's size, ids are clamped, and the
    // bounds are checked once more in debug builds, in which the tests compare every kind of kernel with a plain evaluation.
    let module = unsafe { device.create_shader_module_trusted(descriptor, checks) };
    let entries: Vec<BindGroupLayoutEntry> = dispatch
        .bindings
        .iter()
        .enumerate()
        .map(|(n, binding)| BindGroupLayoutEntry {
            binding: n as u32,
            visibility: ShaderStages::COMPUTE,
            ty: BindingType::Buffer {
                ty: BufferBindingType::Storage { read_only: !binding.writable },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        })
        .collect();
    let layout =
        device.create_bind_group_layout(&BindGroupLayoutDescriptor { label: Some(label), entries: &entries });
    let pipeline_layout = device.create_pipeline_layout(&PipelineLayoutDescriptor {
        label: Some(label),
        bind_group_layouts: &[Some(&layout)],
        immediate_size: 0,
    });
    let compute = device.create_compute_pipeline(&ComputePipelineDescriptor {
        label: Some(label),
        layout: Some(&pipeline_layout),
        module: &module,
        entry_point: Some(Dispatch::ENTRY),
        // Every kernel writes its workgroup memory before it reads it.
        compilation_options: PipelineCompilationOptions {
            zero_initialize_workgroup_memory: false,
            ..PipelineCompilationOptions::default()
        },
        cache: None,
    });
    Pipeline { compute, layout }
}
