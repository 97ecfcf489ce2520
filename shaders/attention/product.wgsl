// `NAME[i][j] = sum over d of LEFT(left0 + y + 16 i, d) RIGHT(right0 + x + 16 j, d)`, in steps of 16 along d.
fn NAME(l: i32, left_base: i32, left0: i32, right_base: i32, right0: i32) -> Part {
    let x = l % 16i;
    let y = l / 16i;
    var sum: Part;
    for (var d0 = 0i; d0 < WIDTH; d0 += 16i) {
        workgroupBarrier();
        for (var p = 0i; p < PART; p++) { // unroll
            let d = d0 + x;
            let row = y + 16i * p;
            var left = 0.0f;
            if (d < WIDTH && left0 + row < LEFT_ROWS) { left = load_LEFT(row_LEFT(left_base, left0 + row), d); }
            tile[row * 17i + x] = left;
            var right = 0.0f;
            if (d < WIDTH && right0 + row < RIGHT_ROWS) { right = load_RIGHT(row_RIGHT(right_base, right0 + row), d); }
            tile[BLOCK * 17i + row * 17i + x] = right;
        }
        workgroupBarrier();
        for (var k = 0i; k < 16i; k++) {
            var right: array<f32, PART>;
            for (var j = 0i; j < PART; j++) { // unroll
                right[j] = tile[BLOCK * 17i + (x + 16i * j) * 17i + k];
            }
            for (var i = 0i; i < PART; i++) { // unroll
                let left = tile[(y + 16i * i) * 17i + k];
                for (var j = 0i; j < PART; j++) { // unroll
                    sum[i][j] += left * right[j];
                }
            }
        }
    }
    return sum;
}
