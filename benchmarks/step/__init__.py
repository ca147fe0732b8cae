"""The parts of `training_step.py`: models, variants, operations, and the process that times one of them."""
