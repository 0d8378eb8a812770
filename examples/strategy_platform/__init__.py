"""An algorithmic trading platform on configbus: three domains of its own, what first stands in them, and a worker."""
