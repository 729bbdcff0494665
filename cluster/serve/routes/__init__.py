"""The HTTP contract: one file for the routes about one thing, each a ``router`` over the state.

To add a route, write a file here and name it in ``cluster.serve.gateway.ROUTERS``.
"""
