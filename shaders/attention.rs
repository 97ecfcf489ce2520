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
    /// Each invocation owns `rows` queries (or keys) in private memory, without barriers: for software adapters.
    Rows {
        /// Queries (or keys) of one invocation.
        rows: u32,
        /// Keys (or queries) of one step: 1, 2, 4 or 8.
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
    generate_as(kernel, caps, choose(&kernel.dims, caps, false))
}

/// Generates the gradient: one dispatch for the queries', which also leaves `delta`, one for the keys' and values'.
pub(crate) fn generate_grad(
    kernel: &AttentionGradKernel,
    caps: &DeviceCaps,
) -> Result<Vec<Dispatch>, KernelError> {
    generate_grad_as(kernel, caps, choose(&kernel.dims, caps, true))
}

fn choose(dims: &AttentionDims, caps: &DeviceCaps, gradient: bool) -> AttentionVariant {
    if caps.software || caps.max_workgroup_invocations < 256 || caps.max_workgroup_bytes < tile_bytes(32) {
        // What fits the registers and the driver's patience: measured on lavapipe.
        let rows = if gradient || dims.width > 64 { 1 } else { 2 };
        return AttentionVariant::Rows { rows, span: 4 };
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
    let mut shader = Shader::new(d, kernel.mask, caps, variant)?;
    shader.load("q", &kernel.q, d.queries)?;
    shader.load("k", &kernel.k, d.keys)?;
    shader.load("v", &kernel.v, d.keys)?;
    shader.store("out", &kernel.out)?;
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
        shader.load("q", &kernel.q, d.queries)?;
        shader.load("k", &kernel.k, d.keys)?;
        shader.load("v", &kernel.v, d.keys)?;
        shader.load("grad_out", &kernel.grad_out, d.queries)?;
        shader.per_query("lse", kernel.lse, false, true)
    };
    let mut queries = Shader::new(d, kernel.mask, caps, variant)?;
    operands(&mut queries)?;
    queries.load("out", &kernel.out, d.queries)?;
    queries.store("grad_q", &kernel.grad_q)?;
    queries.per_query("delta", kernel.delta, true, false)?;
    let products = [("scores", "q", "k"), ("slopes", "grad_out", "v")];
    let sums = [("add_keys", "k")];
    let body = [include_str!("attention/rows_grad_q.wgsl"), include_str!("attention/tiles_grad_q.wgsl")];
    let queries = queries.finish(body, &products, &sums, d.queries, d.heads)?;

    let mut keys = Shader::new(d, kernel.mask, caps, variant)?;
    operands(&mut keys)?;
    keys.store("grad_k", &kernel.grad_k)?;
    keys.store("grad_v", &kernel.grad_v)?;
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
    /// Names of the operands that bodies load, with the rows that they have.
    loaded: Vec<(&'static str, usize)>,
}

impl<'a> Shader<'a> {
    fn new(
        dims: &'a AttentionDims,
        mask: Option<u32>,
        caps: &'a DeviceCaps,
        variant: AttentionVariant,
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
            Some(arg) => {
                let name = bindings.arg(arg, "u32", false)?;
                format!("{name}[batch * KEYS + min(key, KEYS - 1i)] != 0u")
            }
        };
        let _ = writeln!(hooks, "fn there(batch: i32, key: i32) -> bool {{ return {there}; }}");
        Ok(Shader { dims, caps, variant, bindings, hooks, loaded: Vec::new() })
    }

    /// The address of `[batch, ., head, .]`, and of a row and column from there.
    fn base(&mut self, name: &str, operand: &Operand) -> String {
        let [batch, time, head, width] = [0, 1, 2, 3].map(|d| operand.view.strides[d]);
        let _ = writeln!(
            self.hooks,
            "fn base_{name}(batch: i32, head: i32) -> i32 {{ return {} + batch * {} + head * {}; }}",
            integer(operand.view.offset),
            integer(batch),
            integer(head),
        );
        format!("base + row * {} + d * {}", integer(time), integer(width))
    }

    fn load(&mut self, name: &'static str, operand: &Operand, rows: usize) -> Result<(), KernelError> {
        let buffer = self.bindings.arg(operand.arg, "f32", false)?;
        let address = self.base(name, operand);
        let _ = writeln!(
            self.hooks,
            "fn load_{name}(base: i32, row: i32, d: i32) -> f32 {{ return {buffer}[{address}]; }}"
        );
        self.loaded.push((name, rows));
        Ok(())
    }

    fn store(&mut self, name: &str, operand: &Operand) -> Result<(), KernelError> {
        let buffer = self.bindings.arg(operand.arg, "f32", true)?;
        let address = self.base(name, operand);
        let _ = writeln!(
            self.hooks,
            "fn store_{name}(base: i32, row: i32, d: i32, value: f32) {{ {buffer}[{address}] = value; }}"
        );
        Ok(())
    }

    /// One word per query of each head: `load_` if it is loaded, else `store_`.
    fn per_query(&mut self, name: &str, arg: u32, writable: bool, loaded: bool) -> Result<(), KernelError> {
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
                check_iterations(
                    self.caps,
                    WHAT,
                    across.div_ceil(span as usize) * inner_heads + inner_heads,
                )?;
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
        let (rows, span, width) = (i64::from(rows), i64::from(span), self.dims.width as i64);
        let gathers = (width * span + 7) / 8;
        let mut functions = format!(
            "const ROWS: i32 = {rows}i;\nconst SPAN: i32 = {span}i;\nconst GATHERS: i32 = {gathers}i;\n\
             const PADDED: i32 = {}i;\n",
            gathers * 8 / span,
        );
        for (name, length) in &self.loaded {
            // Element `e` of `span` rows, column by column; past the last row that one again, past the last column 0.
            let row = format!("min(row0 + e % SPAN, {}i)", *length as i64 - 1);
            let value = if (width * span) % 8 == 0 {
                format!("load_{name}(base, {row}, e / SPAN)")
            } else {
                format!("select(0.0f, load_{name}(base, {row}, min(e / SPAN, WIDTH - 1i)), e / SPAN < WIDTH)")
            };
            let _ = writeln!(
                functions,
                "fn {name}_at(base: i32, row0: i32, e: i32) -> f32 {{ return {value}; }}"
            );
        }
        let subgroups = self.caps.subgroup_size == 8;
        let mut body = body.to_owned();
        if !subgroups {
            for (shared, own) in UNSHARED {
                body = body.replace(shared, own);
            }
        }
        let constants = [("ROWS", rows), ("SPAN", span), ("GATHERS", gathers), ("WIDTH", width)];
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

/// What takes the place of a broadcast where invocations cannot exchange registers: everyone loads the element.
const UNSHARED: [(&str, &str); 6] = [
    ("subgroupBroadcast(mine_k, u32(i))", "k_at(k_base, key0, 8i * g + i)"),
    ("subgroupBroadcast(mine_v, u32(i))", "v_at(v_base, key0, 8i * g + i)"),
    ("subgroupBroadcast(mine_q, u32(i))", "q_at(q_base, query0, 8i * g + i)"),
    ("subgroupBroadcast(mine_g, u32(i))", "grad_out_at(grad_out_base, query0, 8i * g + i)"),
    ("subgroupBroadcast(mine_lse, u32(j))", "load_lse(batch, head, min(query0 + j, QUERIES - 1i))"),
    ("subgroupBroadcast(mine_delta, u32(j))", "load_delta(batch, head, min(query0 + j, QUERIES - 1i))"),
];
