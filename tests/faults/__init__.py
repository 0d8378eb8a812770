"""Faults on real servers: what is broken, what every worker wrote down meanwhile, and the judge of it."""
