"""The compatibility matrix: libraries, what they are put to, and how a cell is computed."""
