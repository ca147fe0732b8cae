"""What a model or a checkpoint really holds, counted from its tensors."""
