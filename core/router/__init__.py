"""Routing with the routers outside: peers, and the configuration text of the programs that speak to them."""
