"""The solver: from `simulate` through the operators to the kernels; begin with simulate.py."""
