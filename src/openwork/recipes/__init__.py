"""Recipes of SparseML and llm-compressor as Python that calls openwork. Nothing here needs torch."""
