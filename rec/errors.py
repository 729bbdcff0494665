"""The errors that a user of nextray can meet.

::

    RecError
    ├── DataError(ValueError)      rows, files or HTTP bodies that break the data contract
    ├── ConfigError(ValueError)    a setting that is out of range or contradicts another
    └── ArtifactError              a workspace folder that is missing, changed or of another kind

A message says what was expected, what came and what to do. Jobs print it as one line and exit
with code 2; a traceback appears only with ``--verbose``.
"""


class RecError(Exception):
    """Be the root of every error that is the user's to mend."""


class DataError(RecError, ValueError):
    """Say that input breaks the data contract."""


class ConfigError(RecError, ValueError):
    """Say that a setting is out of range or contradicts another."""


class ArtifactError(RecError):
    """Say that a folder of the workspace is missing, changed or of another kind."""
