"""Many runs: in this process or on a cluster, and what they would cost."""
