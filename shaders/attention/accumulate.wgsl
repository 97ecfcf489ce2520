// `acc[i][2 c + j] += sum over k of weights[y + 16 i][k] FACTOR(row0 + k, 32 c + x + 16 j)`, 32 columns at a time.
fn NAME(l: i32, base: i32, row0: i32, acc: ptr<function, Rows>) {
    let x = l % 16i;
    let y = l / 16i;
    for (var c = 0i; c < CHUNKS; c++) { // unroll
        workgroupBarrier();
        for (var p = 0i; p < PART; p++) { // unroll
            for (var j = 0i; j < 2i; j++) { // unroll
                let row = y + 16i * p;
                let d = 32i * c + x + 16i * j;
                var value = 0.0f;
                if (d < WIDTH && row0 + row < FACTOR_ROWS) { value = load_FACTOR(row_FACTOR(base, row0 + row), d); }
                tile[row * 33i + x + 16i * j] = value;
            }
        }
        workgroupBarrier();
        for (var k = 0i; k < BLOCK; k++) {
            let left = tile[k * 33i + x];
            let right = tile[k * 33i + x + 16i];
            for (var i = 0i; i < PART; i++) { // unroll
                let weight = weights[(y + 16i * i) * (BLOCK + 1i) + k];
                (*acc)[i][2i * c] += weight * left;
                (*acc)[i][2i * c + 1i] += weight * right;
            }
        }
    }
}
