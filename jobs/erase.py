"""Erase a user from everything that a workspace holds, with a receipt: -> erasures/receipt-*.json.

python -m jobs.erase laptop --workspace ./workspace --user-id alice
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.progress import console
from jobs.command import Arguments, run_job
from jobs.stages import Fields
from rec.errors import ArtifactError
from rec.stages.erasing import erase


@dataclass(frozen=True, kw_only=True)
class EraseArguments(Arguments):
    """Name the users."""

    user_id: tuple[str, ...]
    """Ids as the shop knows them, not pseudonyms; several are erased in one pass."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the job; it needs no cluster. Run it while no other job writes to the workspace."""
    run_job(EraseArguments, _work, argv, name="erase", description=str(__doc__))


def _work(arguments: EraseArguments) -> Fields:
    path, receipt = erase(arguments.workspace, arguments.user_id)
    rows = sum(receipt["rows"].values())
    console().print(f"{rows} rows removed from {len(receipt['files'])} files")
    if receipt["releases"]:
        names = ", ".join(receipt["releases"])
        console().print(f"releases trained on the user: {names}; run the pipeline again")
    if receipt["left"]:
        raise ArtifactError(
            f"expected no trace of the user, found some in {', '.join(receipt['left'])}: another "
            f"job may have written meanwhile, erase again when it has ended ({path})"
        )
    return {"outputs": {"receipt": str(path)}, "skipped": not rows, "receipt": receipt}


if __name__ == "__main__":
    main()
