"""The networks that the study trains, plain modules that know nothing of sparsity."""
