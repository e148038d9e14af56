"""HVT: the hierarchical vision transformer with token pooling."""
