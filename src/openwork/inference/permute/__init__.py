"""Another order of a model's channels, under which n of m neighbours keep more."""
