//! Criterion benchmarks of wgrad.
