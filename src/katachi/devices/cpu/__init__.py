"""The processor: kernels through LLVM, a thread pool in generated code, one call a run of kernels."""
