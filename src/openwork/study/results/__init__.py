"""The results of a study's runs: their rows, and the statistics over seeds."""
