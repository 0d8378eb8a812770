"""A world in one thread with a virtual clock, in which the product's own protocol core meets faults by seed."""
