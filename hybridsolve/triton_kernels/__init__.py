"""The GPU kernels in Triton: math.py, one step of each model, drive.py (the time loop), launch.py (the call)."""
