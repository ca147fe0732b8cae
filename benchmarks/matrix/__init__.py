"""The compatibility matrix: libraries, the checks they go through, and how a cell is computed."""
