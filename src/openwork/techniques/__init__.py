"""One technique a file; each reads like its paper's section."""
