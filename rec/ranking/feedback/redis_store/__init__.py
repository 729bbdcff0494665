"""Feedback on a Redis or Valkey server: one log for all machines of a cluster.

What is guaranteed: a write is acknowledged only after the server's append-only file was synced to
its disk (``appendfsync always``, which is demanded at every connection). A server that is killed
comes back with every acknowledged event, each once; one whose disk is full stops and acknowledges
nothing. What is not: copies to a replica are made afterwards, so a failover to one may lose the
last moments. All of it lies in the server's memory, some 400 bytes an event and 1 kB a list.
"""
