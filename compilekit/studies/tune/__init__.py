"""`tune`: the fastest recipe for a model on this machine, found by trying."""
