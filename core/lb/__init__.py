"""Load balancing: the flow hash, Maglev tables, the classifier, and the forwarding set that data planes make true."""
