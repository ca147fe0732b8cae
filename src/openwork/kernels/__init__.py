"""Operations of our own: each a ``torch.library`` op with a plain twin, which knows tensors and no modules."""
