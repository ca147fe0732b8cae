"""Kernels in Triton; each module has its plain twin beside this folder."""
