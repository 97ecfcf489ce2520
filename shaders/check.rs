//! Whether every platform's compiler would take a shader.

use naga::{
    back::{hlsl, msl, spv},
    valid::{Capabilities, ModuleInfo, ValidationFlags, Validator},
};

use crate::Dispatch;

/// Parses and validates WGSL, and writes it as SPIR-V (Vulkan), MSL (Metal) and HLSL (DX12), each under the capabilities that the
/// writer supports. DX12 has no cooperative matrices: text with these is not written for it.
///
/// # Errors
/// What the first failing stage says, with the stage's name before it.
pub fn check(source: &str) -> Result<(), String> {
    let module =
        naga::front::wgsl::parse_str(source).map_err(|e| format!("WGSL: {}", e.emit_to_string(source)))?;
    let validate = |name: &str, capabilities: Capabilities| -> Result<ModuleInfo, String> {
        Validator::new(ValidationFlags::all(), capabilities)
            .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
            .subgroup_operations(naga::valid::SubgroupOperationSet::all())
            .validate(&module)
            .map_err(|e| format!("{name}: {}", e.emit_to_string(source)))
    };

    let info = validate("SPIR-V", spv::supported_capabilities())?;
    let options = spv::Options { lang_version: (1, 3), ..spv::Options::default() };
    spv::write_vec(&module, &info, &options, None).map_err(|e| format!("SPIR-V: {e}"))?;

    let info = validate("MSL", msl::supported_capabilities())?;
    let options =
        msl::Options { lang_version: (2, 4), fake_missing_bindings: true, ..msl::Options::default() };
    let pipeline = msl::PipelineOptions {
        entry_point: Some((naga::ShaderStage::Compute, Dispatch::ENTRY.to_owned())),
        ..msl::PipelineOptions::default()
    };
    msl::write_string(&module, &info, &options, &pipeline).map_err(|e| format!("MSL: {e}"))?;

    if source.contains(crate::matmul::cooperative::ENABLE) {
        return Ok(());
    }
    let info = validate("HLSL", hlsl::supported_capabilities())?;
    let options = hlsl::Options {
        shader_model: hlsl::ShaderModel::V6_0,
        fake_missing_bindings: true,
        ..hlsl::Options::default()
    };
    let pipeline = hlsl::PipelineOptions::default();
    let mut text = String::new();
    hlsl::Writer::new(&mut text, &options, &pipeline)
        .write(&module, &info, None)
        .map_err(|e| format!("HLSL: {e}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_valid_with_the_hooks_beside_them() {
        let reduce = include_str!("reduce/hooks.wgsl");
        let matmul = include_str!("matmul/hooks.wgsl");
        let quads = include_str!("matmul/hooks_quads.wgsl");
        let scatter = include_str!("scatter/hooks.wgsl");
        let sort = include_str!("sort/hooks.wgsl");
        for (name, hooks, body) in [
            ("reduce/thread", reduce, include_str!("reduce/thread.wgsl")),
            ("reduce/tree", reduce, include_str!("reduce/tree.wgsl")),
            ("reduce/column", reduce, include_str!("reduce/column.wgsl")),
            ("matmul/direct", matmul, include_str!("matmul/direct.wgsl")),
            ("matmul/subgroup", quads, include_str!("matmul/subgroup.wgsl")),
            ("matmul/tiled", matmul, include_str!("matmul/tiled.wgsl")),
            ("scatter/clear", scatter, include_str!("scatter/clear.wgsl")),
            ("scatter/link", scatter, include_str!("scatter/link.wgsl")),
            ("scatter/sum", scatter, include_str!("scatter/sum.wgsl")),
            (
                "sort/float_key",
                "@compute @workgroup_size(1) fn main() {}\n",
                include_str!("sort/float_key.wgsl"),
            ),
            ("sort/block", sort, include_str!("sort/block.wgsl")),
            ("sort/merge", sort, include_str!("sort/merge.wgsl")),
        ] {
            check(&format!("{hooks}{body}")).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }

    #[test]
    fn broken_text_is_refused_with_its_place() {
        let error = check("fn main() { let x: f32 = 1u; }").unwrap_err();
        assert!(error.starts_with("WGSL") && error.contains("wgsl:1:"), "{error}");
    }
}
