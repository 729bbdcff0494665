"""What goes wrong with a log that is not a file."""

from rec.errors import ArtifactError


class LogUnavailableError(ArtifactError):
    """Say that the server of the event log does not answer, or does not keep what it promised.

    Nothing was acknowledged. What was sent may be stored all the same; sent again it counts once.
    """
