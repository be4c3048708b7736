"""The GPU kernels in Triton: math.py, drive.py (the time loop), launch.py (the call).

A model's step and adjoint are a module by hand, such as hbv.py, or what compiler/triton.py writes.
"""
