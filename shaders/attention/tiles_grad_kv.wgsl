// The gradients of attention with respect to keys and values, through workgroup memory.
// Reads: q, k, v and the cotangent once per pair of blocks, in steps of 16 along the width, q and the cotangent a second time.
// Writes: `store_grad_k`, `store_grad_v` once. Workgroup: 16 x 16 invocations that own BLOCK keys of one key head; the query heads of the
// group follow each other.
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    // Surplus workgroups of a folded grid repeat the last block and do not store it: they must not miss the barriers.
    let wanted = group_number(group);
    let number = min(wanted, TOTAL - 1u);
    let l = i32(local);
    let x = l % 16i;
    let y = l / 16i;
    let row0 = i32(number % TILES) * BLOCK;
    let kv_head = i32(number / TILES) % (HEADS / GROUP);
    let batch = i32(number / TILES) / (HEADS / GROUP);
    let k_base = base_k(batch, kv_head);
    let v_base = base_v(batch, kv_head);
    var acc_k: Rows;
    var acc_v: Rows;
    let first = first_query(row0);
    let last = end_query(min(row0 + BLOCK - 1i, KEYS - 1i));
    for (var head = kv_head * GROUP; head < (kv_head + 1i) * GROUP; head++) {
        let q_base = base_q(batch, head);
        let grad_out_base = base_grad_out(batch, head);
        for (var query0 = first; query0 < last; query0 += BLOCK) {
            let score = scores(l, k_base, row0, q_base, query0);
            let slope = slopes(l, v_base, row0, grad_out_base, query0);
            var change: Part;
            for (var j = 0i; j < PART; j++) { // unroll
                let query = query0 + x + 16i * j;
                let lse = load_lse(batch, head, min(query, QUERIES - 1i));
                let delta = load_delta(batch, head, min(query, QUERIES - 1i));
                for (var i = 0i; i < PART; i++) { // unroll
                    let key = row0 + y + 16i * i;
                    let seen = query < QUERIES && sees(query, key) && there(batch, key);
                    let p = select(0.0f, exp_down(score[i][j] * SCALE - lse), seen);
                    change[i][j] = p * (slope[i][j] - delta);
                    weights[(y + 16i * i) * (BLOCK + 1i) + x + 16i * j] = p;
                }
            }
            add_cotangents(l, grad_out_base, query0, &acc_v);
            workgroupBarrier();
            for (var i = 0i; i < PART; i++) { // unroll
                for (var j = 0i; j < PART; j++) { // unroll
                    weights[(y + 16i * i) * (BLOCK + 1i) + x + 16i * j] = change[i][j];
                }
            }
            add_queries(l, q_base, query0, &acc_k);
        }
    }
    let grad_k_base = base_grad_k(batch, kv_head);
    let grad_v_base = base_grad_v(batch, kv_head);
    for (var i = 0i; i < PART; i++) { // unroll
        let row = row0 + y + 16i * i;
        if (wanted < TOTAL && row < KEYS) {
            for (var c = 0i; c < COLUMNS; c++) { // unroll
                let d = 16i * c + x;
                if (d < WIDTH) {
                    store_grad_k(row_grad_k(grad_k_base, row), d, acc_k[i][c] * SCALE);
                    store_grad_v(row_grad_v(grad_v_base, row), d, acc_v[i][c]);
                }
            }
        }
    }
}
