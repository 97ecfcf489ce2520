// The gradient of attention with respect to its queries, through workgroup memory, and `delta` for the other gradients.
// Reads: q, k, v and the cotangent once per pair of blocks, in steps of 16 along the width, k a second time. Writes: `store_grad_q`,
// `store_delta` once. Workgroup: 16 x 16 invocations that own BLOCK queries of one head.
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    // Surplus workgroups of a folded grid repeat the last block and do not store it: they must not miss the barriers.
    let wanted = group_number(group);
    let number = min(wanted, TOTAL - 1u);
    let l = i32(local);
    let x = l % 16i;
    let y = l / 16i;
    let row0 = i32(TILES - 1u - number % TILES) * BLOCK;
    let head = i32(number / TILES) % HEADS;
    let batch = i32(number / TILES) / HEADS;
    let q_base = base_q(batch, head);
    let k_base = base_k(batch, head / GROUP);
    let v_base = base_v(batch, head / GROUP);
    let out_base = base_out(batch, head);
    let grad_out_base = base_grad_out(batch, head);
    var acc: Rows;
    var lse: array<f32, PART>;
    var delta: array<f32, PART>;
    for (var i = 0i; i < PART; i++) { // unroll
        let row = min(row0 + y + 16i * i, QUERIES - 1i);
        lse[i] = load_lse(batch, head, row);
        var own = 0.0f;
        for (var d = x; d < WIDTH; d += 16i) {
            own += load_grad_out(row_grad_out(grad_out_base, row), d) * load_out(row_out(out_base, row), d);
        }
        weights[(y + 16i * i) * (BLOCK + 1i) + x] = own;
    }
    workgroupBarrier();
    for (var i = 0i; i < PART; i++) { // unroll
        for (var j = 0i; j < 16i; j++) {
            delta[i] += weights[(y + 16i * i) * (BLOCK + 1i) + j];
        }
    }
    let last = end_key(min(row0 + BLOCK - 1i, QUERIES - 1i));
    for (var key0 = first_key(row0); key0 < last; key0 += BLOCK) {
        let score = scores(l, q_base, row0, k_base, key0);
        let slope = slopes(l, grad_out_base, row0, v_base, key0);
        for (var i = 0i; i < PART; i++) { // unroll
            for (var j = 0i; j < PART; j++) { // unroll
                let key = key0 + x + 16i * j;
                let seen = sees(row0 + y + 16i * i, key) && there(batch, key);
                let p = select(0.0f, exp_down(score[i][j] * SCALE - lse[i]), seen);
                weights[(y + 16i * i) * (BLOCK + 1i) + x + 16i * j] = p * (slope[i][j] - delta[i]);
            }
        }
        add_keys(l, k_base, key0, &acc);
    }
    let grad_q_base = base_grad_q(batch, head);
    for (var i = 0i; i < PART; i++) { // unroll
        let row = row0 + y + 16i * i;
        if (wanted < TOTAL && row < QUERIES) {
            for (var c = 0i; c < COLUMNS; c++) { // unroll
                let d = 16i * c + x;
                if (d < WIDTH) { store_grad_q(row_grad_q(grad_q_base, row), d, acc[i][c] * SCALE); }
            }
            if (x == 0i) { store_delta(batch, head, row, delta[i]); }
        }
    }
}
