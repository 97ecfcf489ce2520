//! Attention and its gradient: which bodies suit, and the constants and hooks that complete them.

use std::fmt::Write;

use wgrad_ir::{AttentionDims, AttentionGradKernel, AttentionKernel, DeviceCaps, Operand};

use crate::{
    Dispatch, KernelError,
    bindings::Bindings,
    grid::Grid,
    index::{check_elements, check_iterations, integer},
    library::{Library, Part},
    unroll::unroll,
};

const WHAT: &str = "attention";

/// How attention is computed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AttentionVariant {
    /// Each invocation owns `rows` queries (or keys), without barriers: for software adapters.
    Rows {
        /// Queries (or keys) of one invocation.
        rows: u32,
        /// Keys (or queries) of one step, a multiple of 8.
        span: u32,
    },
    /// Blocks of `block` queries and `block` keys (a multiple of 16) in workgroup memory: for real GPUs.
    Tiles {
        /// Queries and keys of one block.
        block: u32,
    },
}

/// Generates the forward kernel: one dispatch.
pub(crate) fn generate(kernel: &AttentionKernel, caps: &DeviceCaps) -> Result<Vec<Dispatch>, KernelError> {
    generate_as(kernel, caps, choose(&kernel.dims, caps))
}

/// Generates the gradient: one dispatch for the queries', which also leaves `delta`, one for the keys' and values'.
pub(crate) fn generate_grad(
    kernel: &AttentionGradKernel,
    caps: &DeviceCaps,
) -> Result<Vec<Dispatch>, KernelError> {
    generate_grad_as(kernel, caps, choose(&kernel.dims, caps))
}

fn choose(dims: &AttentionDims, caps: &DeviceCaps) -> AttentionVariant {
    if caps.software || caps.max_workgroup_invocations < 256 || caps.max_workgroup_bytes < tile_bytes(32) {
        return AttentionVariant::Rows { rows: 2, span: 16 };
    }
    // Large blocks load less; short sequences and few heads need many.
    let blocks = dims.batch * dims.heads * dims.queries.min(dims.keys) / 64;
    let large = blocks >= 64 && dims.width <= 128 && caps.max_workgroup_bytes >= tile_bytes(64);
    AttentionVariant::Tiles { block: if large { 64 } else { 32 } }
}

/// Workgroup memory of the tiled bodies.
fn tile_bytes(block: u32) -> u32 {
    4 * block * (34 + block + 1)
}

/// As [`generate`], with a given variant.
pub(crate) fn generate_as(
    kernel: &AttentionKernel,
    caps: &DeviceCaps,
    variant: AttentionVariant,
) -> Result<Vec<Dispatch>, KernelError> {
    let d = &kernel.dims;
    let all = [&kernel.q, &kernel.k, &kernel.v, &kernel.out];
    let mut shader = Shader::new(d, kernel.mask, caps, variant, &all, &[kernel.lse])?;
    shader.operand("q", &kernel.q, d.queries, false)?;
    shader.operand("k", &kernel.k, d.keys, false)?;
    shader.operand("v", &kernel.v, d.keys, false)?;
    shader.operand("out", &kernel.out, d.queries, true)?;
    shader.per_query("lse", kernel.lse, true, false)?;
    let products = [("scores", "q", "k")];
    let sums = [("add_values", "v")];
    let body = [include_str!("attention/rows.wgsl"), include_str!("attention/tiles.wgsl")];
    Ok(shader.finish(body, &products, &sums, d.queries, d.heads)?.into_iter().collect())
}

/// As [`generate_grad`], with a given variant.
pub(crate) fn generate_grad_as(
    kernel: &AttentionGradKernel,
    caps: &DeviceCaps,
    variant: AttentionVariant,
) -> Result<Vec<Dispatch>, KernelError> {
    let d = &kernel.dims;
    let operands = |shader: &mut Shader<'_>| {
        shader.operand("q", &kernel.q, d.queries, false)?;
        shader.operand("k", &kernel.k, d.keys, false)?;
        shader.operand("v", &kernel.v, d.keys, false)?;
        shader.operand("grad_out", &kernel.grad_out, d.queries, false)?;
        shader.per_query("lse", kernel.lse, false, true)
    };
    let read = [&kernel.q, &kernel.k, &kernel.v, &kernel.out, &kernel.grad_out];
    let all = [&read[..], &[&kernel.grad_q, &kernel.grad_k, &kernel.grad_v]].concat();
    let words = [kernel.lse, kernel.delta];
    let mut queries = Shader::new(d, kernel.mask, caps, variant, &all, &words)?;
    operands(&mut queries)?;
    queries.operand("out", &kernel.out, d.queries, false)?;
    queries.operand("grad_q", &kernel.grad_q, d.queries, true)?;
    queries.per_query("delta", kernel.delta, true, false)?;
    let products = [("scores", "q", "k"), ("slopes", "grad_out", "v")];
    let sums = [("add_keys", "k")];
    let body = [include_str!("attention/rows_grad_q.wgsl"), include_str!("attention/tiles_grad_q.wgsl")];
    let queries = queries.finish(body, &products, &sums, d.queries, d.heads)?;

    let mut keys = Shader::new(d, kernel.mask, caps, variant, &all, &words)?;
    operands(&mut keys)?;
    keys.operand("grad_k", &kernel.grad_k, d.keys, true)?;
    keys.operand("grad_v", &kernel.grad_v, d.keys, true)?;
    // Bound for writing, too: it may share a buffer with the results, of which all bindings must be alike.
    keys.per_query("delta", kernel.delta, true, true)?;
    let products = [("scores", "k", "q"), ("slopes", "v", "grad_out")];
    let sums = [("add_cotangents", "grad_out"), ("add_queries", "q")];
    let body = [include_str!("attention/rows_grad_kv.wgsl"), include_str!("attention/tiles_grad_kv.wgsl")];
    let keys = keys.finish(body, &products, &sums, d.keys, d.kv_heads)?;
    Ok(queries.into_iter().chain(keys).collect())
}

/// A shader in the making: bindings, and the hooks that read and write them.
struct Shader<'a> {
    dims: &'a AttentionDims,
    caps: &'a DeviceCaps,
    variant: AttentionVariant,
    bindings: Bindings,
    hooks: String,
    /// Whether all operands are arrays of aligned `vec4`s along the width.
    wide: bool,
    /// Names of the operands that bodies load, with the rows that they have.
    loaded: Vec<(&'static str, usize)>,
}

impl<'a> Shader<'a> {
    fn new(
        dims: &'a AttentionDims,
        mask: Option<u32>,
        caps: &'a DeviceCaps,
        variant: AttentionVariant,
        operands: &[&Operand],
        words: &[u32],
    ) -> Result<Self, KernelError> {
        let elements = |time: usize| dims.batch.saturating_mul(dims.heads).saturating_mul(time);
        check_elements(WHAT, elements(dims.queries).saturating_mul(dims.width))?;
        check_elements(WHAT, elements(dims.keys).saturating_mul(dims.width))?;
        let scale = dims.spec.scale.as_f64() as f32;
        if dims.width == 0
            || dims.kv_heads == 0
            || !dims.heads.is_multiple_of(dims.kv_heads)
            || !scale.is_finite()
        {
            return Err(KernelError::Inconsistent(format!("attention {dims:?}")));
        }
        let aligned = |o: &Operand| {
            let [batch, time, head, width] = [0, 1, 2, 3].map(|d| o.view.strides[d]);
            width == 1 && [o.view.offset, batch, time, head].iter().all(|s| s % 4 == 0)
        };
        // A buffer is bound as one type: words that lie in an operand's buffer keep that from being one of `vec4`s.
        let wide = matches!(variant, AttentionVariant::Rows { .. })
            && dims.width.is_multiple_of(4)
            && operands.iter().all(|o| aligned(o) && !words.contains(&o.arg) && mask != Some(o.arg));
        let mut bindings = Bindings::default();
        let (queries, keys) = (dims.queries, dims.keys);
        let mut hooks = format!(
            "const SCALE: f32 = {scale:e}f;\nconst HEADS: i32 = {}i;\nconst GROUP: i32 = {}i;\n\
             const QUERIES: i32 = {queries}i;\nconst KEYS: i32 = {keys}i;\nconst WIDTH: i32 = {}i;\n",
            dims.heads,
            dims.heads / dims.kv_heads,
            dims.width
        );
        // The keys that a query sees, and the queries that see a key: runs whose ends grow with the query or key.
        let causal = dims.spec.causal;
        let window = dims.spec.window.map(|w| w.min(queries.max(keys)));
        let before =
            |at: &str| window.map_or("0i".into(), |w| format!("max({at} - {}i, 0i)", w.saturating_sub(1)));
        let after =
            |at: &str, end: usize| window.map_or(format!("{end}i"), |w| format!("min({at} + {w}i, {end}i)"));
        let until_itself = |end: usize| format!("min(query + 1i, {end}i)");
        let end_key = if causal { until_itself(keys) } else { after("query", keys) };
        let first_query = if causal { "key".into() } else { before("key") };
        let _ = write!(
            hooks,
            "fn first_key(query: i32) -> i32 {{ return {}; }}\nfn end_key(query: i32) -> i32 {{ return {end_key}; }}\n\
             fn first_query(key: i32) -> i32 {{ return {first_query}; }}\n\
             fn end_query(key: i32) -> i32 {{ return {}; }}\n",
            before("query"),
            after("key", queries),
        );
        let there = match mask {
            None => "true".to_owned(),
            Some(_) if keys == 0 => "false".to_owned(),
            Some(arg) => {
                let name = bindings.arg(arg, "u32", false)?;
                format!("{name}[batch * KEYS + min(key, KEYS - 1i)] != 0u")
            }
        };
        let _ = writeln!(hooks, "fn there(batch: i32, key: i32) -> bool {{ return {there}; }}");
        Ok(Shader { dims, caps, variant, bindings, hooks, wide, loaded: Vec::new() })
    }

    /// Hooks for an operand: the address of `[batch, ., head, .]`, that of a row, and the elements from there.
    fn operand(
        &mut self,
        name: &'static str,
        operand: &Operand,
        rows: usize,
        writable: bool,
    ) -> Result<(), KernelError> {
        let [batch, time, head, width] = [0, 1, 2, 3].map(|d| integer(operand.view.strides[d]));
        let offset = integer(operand.view.offset);
        let (load, store) = if rows == 0 {
            (format!("return {}(0.0f);", self.element()), None)
        } else {
            self.access(operand.arg, &width, writable)?
        };
        let _ = write!(
            self.hooks,
            "fn base_{name}(batch: i32, head: i32) -> i32 {{ return {offset} + batch * {batch} + head * {head}; }}\n\
             fn row_{name}(base: i32, row: i32) -> i32 {{ return base + row * {time}; }}\n\
             fn load_{name}(row: i32, d: i32) -> {} {{ {load} }}\n",
            self.element(),
        );
        if let Some(store) = store.filter(|_| writable) {
            let _ = writeln!(
                self.hooks,
                "fn store_{name}(row: i32, d: i32, value: {}) {{ {store} }}",
                self.element(),
            );
        }
        self.loaded.push((name, rows));
        Ok(())
    }

    /// What bodies load and store at once: four columns without barriers, one in tiles.
    fn element(&self) -> &'static str {
        match self.variant {
            AttentionVariant::Rows { .. } => "vec4<f32>",
            AttentionVariant::Tiles { .. } => "f32",
        }
    }

    /// Statements that load and store the element at column `d` of a row; past the last column they load zeros and store nothing.
    fn access(
        &mut self,
        arg: u32,
        stride: &str,
        writable: bool,
    ) -> Result<(String, Option<String>), KernelError> {
        if self.wide {
            let place = format!("{}[(row + d) / 4i]", self.bindings.arg(arg, "vec4<f32>", writable)?);
            return Ok((format!("return {place};"), Some(format!("{place} = value;"))));
        }
        let buffer = self.bindings.arg(arg, "f32", writable)?;
        if let AttentionVariant::Tiles { .. } = self.variant {
            let place = format!("{buffer}[row + d * {stride}]");
            return Ok((format!("return {place};"), Some(format!("{place} = value;"))));
        }
        let whole = self.dims.width.is_multiple_of(4);
        let (mut load, mut store) = ("var value: vec4<f32>;".to_owned(), String::new());
        for c in 0..4 {
            let place = format!("{buffer}[row + (d + {c}i) * {stride}]");
            let inside = if whole { String::new() } else { format!("if (d + {c}i < WIDTH) ") };
            let _ = write!(load, " {inside}{{ value[{c}] = {place}; }}");
            let _ = write!(store, " {inside}{{ {place} = value[{c}]; }}");
        }
        Ok((load + " return value;", Some(store)))
    }

    /// One word per query of each head: `load_` if it is loaded, else `store_`.
    fn per_query(&mut self, name: &str, arg: u32, writable: bool, loaded: bool) -> Result<(), KernelError> {
        if self.dims.queries == 0 {
            let _ = writeln!(
                self.hooks,
                "fn load_{name}(batch: i32, head: i32, row: i32) -> f32 {{ return 0.0f; }}"
            );
            return Ok(());
        }
        let buffer = self.bindings.arg(arg, "f32", writable)?;
        let element = format!("{buffer}[(batch * HEADS + head) * QUERIES + row]");
        let _ = if loaded {
            writeln!(
                self.hooks,
                "fn load_{name}(batch: i32, head: i32, row: i32) -> f32 {{ return {element}; }}"
            )
        } else {
            writeln!(
                self.hooks,
                "fn store_{name}(batch: i32, head: i32, row: i32, value: f32) {{ {element} = value; }}"
            )
        };
        Ok(())
    }

    /// The dispatch over blocks of `rows` rows of `heads` heads, with the body of the variant; none without rows. `products` and
    /// `sums` are the functions that tiled bodies call: name and operands.
    fn finish(
        self,
        [by_rows, by_tiles]: [&str; 2],
        products: &[(&str, &str, &str)],
        sums: &[(&str, &str)],
        rows: usize,
        heads: usize,
    ) -> Result<Option<Dispatch>, KernelError> {
        let across = if rows == self.dims.queries { self.dims.keys } else { self.dims.queries };
        let inner_heads = self.dims.heads / heads;
        let (block, workgroup_size) = match self.variant {
            AttentionVariant::Rows { rows, .. } => (8 * rows as usize, 8),
            AttentionVariant::Tiles { block } => (block as usize, 256),
        };
        let tiles = rows.div_ceil(block);
        let total = self.dims.batch * heads * tiles;
        if total == 0 {
            return Ok(None);
        }
        let grid = Grid::fold(total, self.caps.max_workgroups_per_dim)?;
        let (functions, body, subgroups) = match self.variant {
            AttentionVariant::Rows { rows, span } => {
                // Two loops along the width, four columns at a time.
                let steps = (across.div_ceil(span as usize) + 1).saturating_mul(inner_heads);
                let columns = self.dims.width.div_ceil(4);
                check_iterations(self.caps, WHAT, (steps + 2).saturating_mul(1 + 2 * columns))?;
                self.rows_text(by_rows, rows, span)
            }
            AttentionVariant::Tiles { block } => {
                let steps = across.div_ceil(block as usize);
                // Of the loops that are not unrolled: along the width, within a tile, within a block.
                let inside = self.dims.width.div_ceil(16) * 17 * products.len()
                    + self.dims.width.div_ceil(32) * block as usize * sums.len();
                check_iterations(self.caps, WHAT, steps.saturating_mul(inside + 20) * inner_heads)?;
                self.tiles_text(by_tiles, block, products, sums)
            }
        };
        let mut source = String::new();
        self.bindings.write(&mut source);
        let mut library = Library::default();
        library.need(Part::Log);
        library.write(&mut source);
        let _ = write!(
            source,
            "const TILES: u32 = {tiles}u;\nconst TOTAL: u32 = {total}u;\n{}{}\
             fn group_number(group: vec3<u32>) -> u32 {{ return {}; }}\n{functions}{body}",
            self.hooks,
            include_str!("attention/common.wgsl"),
            grid.number,
        );
        Ok(Some(Dispatch {
            source: source.into(),
            bindings: self.bindings.into_list(),
            workgroups: grid.workgroups,
            workgroup_size,
            subgroups,
        }))
    }

    /// Constants and body of the variant without barriers.
    fn rows_text(&self, body: &str, rows: u32, span: u32) -> (String, String, bool) {
        let constants = [("ROWS", i64::from(rows)), ("SPAN", i64::from(span))];
        let mut functions = String::new();
        for (name, value) in constants {
            let _ = writeln!(functions, "const {name}: i32 = {value}i;");
        }
        let subgroups = self.caps.subgroup_size == 8;
        let mut body = body.to_owned();
        if !subgroups {
            body = unshare(&body);
        }
        (functions, unroll(&body, &constants), subgroups)
    }

    /// Constants, functions and body of the variant with workgroup memory.
    fn tiles_text(
        &self,
        body: &str,
        block: u32,
        products: &[(&str, &str, &str)],
        sums: &[(&str, &str)],
    ) -> (String, String, bool) {
        let part = i64::from(block) / 16;
        let chunks = (self.dims.width as i64 + 31) / 32;
        let mut functions = format!(
            "const BLOCK: i32 = {block}i;\nconst PART: i32 = {part}i;\nconst CHUNKS: i32 = {chunks}i;\n\
             const COLUMNS: i32 = {}i;\n{}",
            2 * chunks,
            include_str!("attention/tile.wgsl"),
        );
        let length = |name: &str| match self.loaded.iter().find(|(n, _)| *n == name) {
            Some((_, rows)) => format!("{rows}i"),
            None => "0i".into(),
        };
        let constants = [("PART", part), ("CHUNKS", chunks), ("COLUMNS", 2 * chunks)];
        for (name, left, right) in products {
            let text = include_str!("attention/product.wgsl")
                .replace("LEFT_ROWS", &length(left))
                .replace("RIGHT_ROWS", &length(right))
                .replace("LEFT", left)
                .replace("RIGHT", right)
                .replace("NAME", name);
            functions += &unroll(&text, &constants);
        }
        for (name, factor) in sums {
            let text = include_str!("attention/accumulate.wgsl")
                .replace("FACTOR_ROWS", &length(factor))
                .replace("FACTOR", factor)
                .replace("NAME", name);
            functions += &unroll(&text, &constants);
        }
        (functions, unroll(body, &constants), false)
    }
}

/// A body for invocations that cannot exchange registers: in place of a broadcast of what lane `i` loaded, everyone loads it.
fn unshare(body: &str) -> String {
    let mut loads: Vec<(String, String)> = Vec::new();
    let mut out = String::new();
    for line in body.lines() {
        let load = line.trim().strip_prefix("let mine_").and_then(|rest| rest.split_once(" = "));
        if let Some((name, load)) = load {
            let load = load.trim_end_matches(';').replace("s + lane", "s + i");
            loads.push((format!("subgroupBroadcast(mine_{name}, u32(i))"), load));
            continue;
        }
        let mut line = line.to_owned();
        // A name is loaded anew in later loops: the latest counts.
        for (broadcast, load) in loads.iter().rev() {
            line = line.replace(broadcast, load);
        }
        out += &line;
        out.push('\n');
    }
    out
}

#[cfg(all(test, feature = "check"))]
mod tests {
    use wgrad_ir::{AttentionSpec, DType, Literal, View};

    use super::*;

    #[test]
    fn attention_is_valid_with_and_without_subgroups_masks_and_keys() {
        for (subgroup_size, masked, keys) in
            [(8, false, 9), (0, true, 9), (0, false, 9), (8, true, 0), (0, true, 0)]
        {
            let scale = Literal::from_f64(DType::F32, 0.125);
            let spec = AttentionSpec { causal: masked, window: masked.then_some(4), masked, scale };
            let dims = AttentionDims { batch: 2, heads: 4, kv_heads: 2, queries: 5, keys, width: 6, spec };
            let operand = |arg: u32, time: usize, heads: usize| Operand {
                arg,
                view: View::contiguous([2, time, heads, 6].into()),
            };
            let rows = |arg| operand(arg, 5, 4);
            let columns = |arg| operand(arg, keys, 2);
            let mask = masked.then_some(11);
            let forward = AttentionKernel {
                dims: dims.clone(),
                q: rows(0),
                k: columns(1),
                v: columns(2),
                mask,
                out: rows(3),
                lse: 4,
            };
            let gradient = AttentionGradKernel {
                dims,
                q: rows(0),
                k: columns(1),
                v: columns(2),
                mask,
                out: rows(3),
                lse: 4,
                grad_out: rows(5),
                grad_q: rows(6),
                grad_k: columns(7),
                grad_v: columns(8),
                delta: 9,
            };
            let caps = DeviceCaps { subgroup_size, max_workgroups_per_dim: 65_535, ..DeviceCaps::cpu() };
            for variant in
                [AttentionVariant::Rows { rows: 2, span: 16 }, AttentionVariant::Tiles { block: 32 }]
            {
                let mut all = generate_as(&forward, &caps, variant).unwrap();
                all.extend(generate_grad_as(&gradient, &caps, variant).unwrap());
                assert_eq!(all.len(), if keys == 0 { 2 } else { 3 });
                for dispatch in all {
                    crate::check(&dispatch.source).unwrap_or_else(|e| panic!("{e}"));
                    let shares = dispatch.source.contains("subgroupBroadcast");
                    assert_eq!(shares, dispatch.subgroups);
                }
            }
        }
    }
}
