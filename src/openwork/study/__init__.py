"""The benchmark: tasks, runs and the report that compares techniques; needs the ``study`` extra."""
