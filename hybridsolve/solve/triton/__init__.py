"""The GPU kernels in Triton: math.py, the step of each model, drive.py (the time loop), launch.py (the call)."""
