"""tncompile: tensor-network generated weights, compiled to PyTorch modules."""
