"""Profiles: what one machine or cluster gives to each stage.

The only file that speaks of ``num_cpus``, ``num_gpus`` and replicas. A recipe names a profile; a
stage asks its profile and never counts cores itself.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

ProfileName = Literal["laptop", "cpu", "gpu"]
LISTS_PER_CALL = 8
"""Lists that a gateway asks a ranker for in one call under load: they share what a call costs, and
more would wait longer for each other. Other numbers were not measured."""
_SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataResources:
    """Say how Ray Data spreads reading, cleaning, embedding and batch recommendation."""

    num_partitions: int
    """Hash partitions of the users; more means less memory for each and more files."""
    num_encoders: int
    """Actors that encode text at the same time."""
    encoder_cpus: float
    """Cores of one encoder actor, and torch threads in it."""
    encoder_gpus: float
    """GPUs of one encoder actor; a fraction shares a GPU."""
    num_recommenders: int
    """Actors that make batch lists at the same time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResources:
    """Say how many training workers run, and on what."""

    num_workers: int
    """Processes of data-parallel training; with ``min_workers`` the most there can be."""
    worker_cpus: float
    """Cores of one worker, and torch threads in it."""
    worker_gpus: float
    """GPUs of one worker."""
    max_failures: int = 2
    """Worker losses that Ray Train repairs by itself from the newest checkpoint."""
    min_workers: int | None = None
    """Fewest processes: training begins with those that find room, goes on with those that are
    left, and takes new ones in. All of ``num_workers`` if absent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeResources:
    """Say the options of each deployment of the serving graph."""

    gateway: Mapping[str, Any]
    encoder: Mapping[str, Any]
    ranker: Mapping[str, Any]
    index_shard: Mapping[str, Any]
    """Of each part of the index, where it is held in several."""
    proxies: Literal["HeadOnly", "EveryNode"] = "HeadOnly"
    """Where HTTP is answered. With several nodes every one of them does, so that losing the head
    loses no request."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """Bundle the resources of every stage."""

    name: ProfileName
    data: DataResources
    train: TrainResources
    serve: ServeResources
    object_store_bytes: int = field(default=512 * 1024 * 1024)
    """Shared memory for Ray's object store on a cluster that we start ourselves."""
    object_store_share: float = field(default=0.3)
    """Share of the memory, and of /dev/shm, above which the object store never is."""


def _deployment(
    *,
    num_cpus: float,
    min_replicas: int,
    max_replicas: int,
    ongoing: int,
    num_gpus: float = 0,
    per_call: int = 1,
) -> Mapping[str, Any]:
    return {
        "ray_actor_options": {"num_cpus": num_cpus, "num_gpus": num_gpus},
        "autoscaling_config": {
            "min_replicas": min_replicas,
            "max_replicas": max_replicas,
            # Half of what a replica accepts: the autoscaler reacts before queues are full. It
            # counts calls, each of which may carry several requests.
            "target_ongoing_requests": max(1, ongoing // 2 // per_call),
            "upscale_delay_s": 3,
            "downscale_delay_s": 30,
        },
        "max_ongoing_requests": ongoing,
        # Four full batches may wait; what comes after is told to retry (503).
        "max_queued_requests": ongoing * 4,
        "health_check_period_s": 5,
        "graceful_shutdown_timeout_s": 10,
    }


LAPTOP = Profile(
    name="laptop",
    data=DataResources(
        num_partitions=4, num_encoders=2, encoder_cpus=1, encoder_gpus=0, num_recommenders=2
    ),
    train=TrainResources(num_workers=1, worker_cpus=2, worker_gpus=0),
    # A third of a core each: the whole graph and one replica more fit on two cores.
    serve=ServeResources(
        gateway=_deployment(num_cpus=0.2, min_replicas=1, max_replicas=2, ongoing=64),
        encoder=_deployment(num_cpus=0.2, min_replicas=1, max_replicas=2, ongoing=32),
        ranker=_deployment(
            num_cpus=0.2, min_replicas=1, max_replicas=2, ongoing=32, per_call=LISTS_PER_CALL
        ),
        index_shard=_deployment(num_cpus=0.1, min_replicas=1, max_replicas=2, ongoing=32),
    ),
)

CPU = Profile(
    name="cpu",
    data=DataResources(
        num_partitions=64, num_encoders=8, encoder_cpus=2, encoder_gpus=0, num_recommenders=8
    ),
    train=TrainResources(num_workers=4, worker_cpus=4, worker_gpus=0, min_workers=1),
    serve=ServeResources(
        gateway=_deployment(num_cpus=1, min_replicas=2, max_replicas=16, ongoing=64),
        encoder=_deployment(num_cpus=2, min_replicas=1, max_replicas=16, ongoing=32),
        ranker=_deployment(
            num_cpus=2, min_replicas=2, max_replicas=32, ongoing=32, per_call=LISTS_PER_CALL
        ),
        index_shard=_deployment(num_cpus=2, min_replicas=2, max_replicas=16, ongoing=64),
        proxies="EveryNode",
    ),
)

GPU = Profile(
    name="gpu",
    data=DataResources(
        num_partitions=64, num_encoders=4, encoder_cpus=2, encoder_gpus=1, num_recommenders=4
    ),
    train=TrainResources(num_workers=4, worker_cpus=4, worker_gpus=1, min_workers=1),
    serve=ServeResources(
        gateway=_deployment(num_cpus=1, min_replicas=2, max_replicas=16, ongoing=64),
        encoder=_deployment(num_cpus=1, num_gpus=0.5, min_replicas=1, max_replicas=8, ongoing=128),
        ranker=_deployment(
            num_cpus=1,
            num_gpus=0.25,
            min_replicas=2,
            max_replicas=16,
            ongoing=128,
            per_call=LISTS_PER_CALL,
        ),
        index_shard=_deployment(num_cpus=2, min_replicas=2, max_replicas=16, ongoing=64),
        proxies="EveryNode",
    ),
)


def object_store_bytes(profile: Profile) -> int:
    """Return the object store of a node that ``nextray up`` starts.

    A laptop's is small; a machine that is there for the cluster gives the whole share. Above
    /dev/shm Ray falls back to a disk, and above the memory the system kills.
    """
    memory = psutil.virtual_memory().total
    shared = shutil.disk_usage(_SHARED_MEMORY).total if _SHARED_MEMORY.is_dir() else memory
    share = int(profile.object_store_share * min(memory, shared))
    return min(share, profile.object_store_bytes) if profile.name == "laptop" else share


PROFILES: Mapping[str, Profile] = {"laptop": LAPTOP, "cpu": CPU, "gpu": GPU}
