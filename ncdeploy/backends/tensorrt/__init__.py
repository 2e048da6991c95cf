"""TensorRT engines: building, describing, checking before loading, running. Imports neither torch nor tensorrt.

Everything that is decided is a plain function of plain values; `adapter` alone speaks to TensorRT, `cudart` alone to
the CUDA runtime.
"""
