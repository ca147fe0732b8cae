"""What the runs of a study found: their rows, and the statistics over seeds."""
