"""Ask a running service: ``Client`` and ``AsyncClient`` over httpx, with typed answers.

Needs httpx alone; a shop's own service can use it without the rest.
"""

from rec.client.asynchronous import AsyncClient
from rec.client.problems import ProblemError, UnreachableError
from rec.client.retrying import RetryConfig
from rec.client.synchronous import Client

__all__ = ["AsyncClient", "Client", "ProblemError", "RetryConfig", "UnreachableError"]
