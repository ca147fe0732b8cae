"""Many runs, in this process or on a cluster, and the price of them."""
