"""The checkpoints that Gale, Elsen & Hooker published with arXiv 1902.09574, as weights of the study's models."""
