"""Kill, cut, flush, freeze: real worker processes, and three books that must agree afterwards."""
