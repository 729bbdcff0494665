"""A service that cannot start says why in one line: what its replica complained of."""

from pathlib import Path

import pytest

from cluster.resources import LAPTOP
from cluster.runtime import free_port
from cluster.serve.app import serving
from rec.artifacts import write_json
from rec.errors import ArtifactError
from tests.releases import copy_release, make_release


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_deploy_error_is_the_root_cause(tmp_path: Path) -> None:
    make_release(tmp_path)
    copy_release(tmp_path, "other", penalty_weight=0.0, fingerprint="0" * 16)
    write_json(tmp_path / "current", {"release": "other", "previous": []})
    with (
        pytest.raises(ArtifactError, match=r"did not start: the release was made with enc") as no,
        serving(tmp_path, profile=LAPTOP, port=free_port()),
    ):
        pass
    assert "\n" not in str(no.value)
    assert "Traceback" not in str(no.value)
