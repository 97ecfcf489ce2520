// The gradients of attention with respect to keys and values, without barriers. A load is a loop over the lanes there, which
// a vec4 pays once for four elements. Each lane owns ROWS keys; a step meets SPAN queries, those of the group's heads one
// after the other. Reads: per four columns of a step each lane loads its k and v, one element of q and of the cotangent for
// every 8 queries (twice), which the lanes share by broadcasts, and its part of the results, which grow in place. Writes:
// `store_grad_k`, `store_grad_v` once per step. Workgroup: 8 lanes, one subgroup, 8 ROWS keys of one key head.
@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let number = group_number(group);
    if (number >= TOTAL) { return; }
    let lane = i32(local);
    let row0 = i32(number % TILES) * (8i * ROWS);
    let kv_head = i32(number / TILES) % (HEADS / GROUP);
    let batch = i32(number / TILES) / (HEADS / GROUP);
    var k_row: array<i32, ROWS>;
    var v_row: array<i32, ROWS>;
    var grad_k_row: array<i32, ROWS>;
    var grad_v_row: array<i32, ROWS>;
    var present: array<bool, ROWS>;
    for (var r = 0i; r < ROWS; r++) { // unroll
        let row = min(row0 + 8i * r + lane, KEYS - 1i);
        k_row[r] = row_k(base_k(batch, kv_head), row);
        v_row[r] = row_v(base_v(batch, kv_head), row);
        grad_k_row[r] = row_grad_k(base_grad_k(batch, kv_head), row);
        grad_v_row[r] = row_grad_v(base_grad_v(batch, kv_head), row);
        present[r] = there(batch, row);
    }
    let first = first_query(row0);
    let last = end_query(min(row0 + 8i * ROWS - 1i, KEYS - 1i));
    for (var head = kv_head * GROUP; head < (kv_head + 1i) * GROUP; head++) {
        let q_base = base_q(batch, head);
        let grad_out_base = base_grad_out(batch, head);
        // One step at least, so that keys which nothing sees get their zeros.
        for (var query0 = first; query0 < max(last, first + 1i); query0 += SPAN) {
            var score: array<array<f32, SPAN>, ROWS>;
            var slope: array<array<f32, SPAN>, ROWS>;
            for (var d = 0i; d < WIDTH; d += 4i) {
                var k: array<vec4<f32>, ROWS>;
                var v: array<vec4<f32>, ROWS>;
                for (var r = 0i; r < ROWS; r++) { // unroll
                    k[r] = load_k(k_row[r], d);
                    v[r] = load_v(v_row[r], d);
                }
                for (var s = 0i; s < SPAN; s += 8i) { // unroll
                    let mine_q = load_q(row_q(q_base, min(query0 + s + lane, QUERIES - 1i)), d);
                    let mine_g = load_grad_out(row_grad_out(grad_out_base, min(query0 + s + lane, QUERIES - 1i)), d);
                    for (var i = 0i; i < 8i; i++) { // unroll
                        let x = subgroupBroadcast(mine_q, u32(i));
                        let y = subgroupBroadcast(mine_g, u32(i));
                        for (var r = 0i; r < ROWS; r++) { // unroll
                            score[r][s + i] += dot(k[r], x);
                            slope[r][s + i] += dot(v[r], y);
                        }
                    }
                }
            }
            for (var s = 0i; s < SPAN; s += 8i) { // unroll
                let mine_lse = load_lse(batch, head, min(query0 + s + lane, QUERIES - 1i));
                let mine_delta = load_delta(batch, head, min(query0 + s + lane, QUERIES - 1i));
                for (var i = 0i; i < 8i; i++) { // unroll
                    let lse = subgroupBroadcast(mine_lse, u32(i));
                    let delta = subgroupBroadcast(mine_delta, u32(i));
                    let query = query0 + s + i;
                    for (var r = 0i; r < ROWS; r++) { // unroll
                        let row = min(row0 + 8i * r + lane, KEYS - 1i);
                        let seen = present[r] && query < QUERIES && sees(query, row);
                        let p = select(0.0f, exp_down(score[r][s + i] * SCALE - lse), seen);
                        score[r][s + i] = p;
                        slope[r][s + i] = select(0.0f, SCALE * p * (slope[r][s + i] - delta), seen);
                    }
                }
            }
            let begin = query0 == first && head == kv_head * GROUP;
            for (var d = 0i; d < WIDTH; d += 4i) {
                var acc_k: array<vec4<f32>, ROWS>;
                var acc_v: array<vec4<f32>, ROWS>;
                for (var r = 0i; r < ROWS; r++) { // unroll
                    acc_k[r] = select(load_grad_k(grad_k_row[r], d), vec4<f32>(), begin);
                    acc_v[r] = select(load_grad_v(grad_v_row[r], d), vec4<f32>(), begin);
                }
                for (var s = 0i; s < SPAN; s += 8i) { // unroll
                    let mine_q = load_q(row_q(q_base, min(query0 + s + lane, QUERIES - 1i)), d);
                    let mine_g = load_grad_out(row_grad_out(grad_out_base, min(query0 + s + lane, QUERIES - 1i)), d);
                    for (var i = 0i; i < 8i; i++) { // unroll
                        let x = subgroupBroadcast(mine_q, u32(i));
                        let y = subgroupBroadcast(mine_g, u32(i));
                        for (var r = 0i; r < ROWS; r++) { // unroll
                            acc_k[r] += slope[r][s + i] * x;
                            acc_v[r] += score[r][s + i] * y;
                        }
                    }
                }
                for (var r = 0i; r < ROWS; r++) { // unroll
                    if (row0 + 8i * r + lane < KEYS) {
                        store_grad_k(grad_k_row[r], d, acc_k[r]);
                        store_grad_v(grad_v_row[r], d, acc_v[r]);
                    }
                }
            }
        }
    }
}
