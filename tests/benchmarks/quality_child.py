"""A peer's run, in the peers' environment: train on a file, write lists to a file.

    PEER/bin/python tests/benchmarks/quality_child.py JOB.json

It imports nothing of ours. RecTools' sequence models stop when NDCG@10 of the last event of up to
2,000 users has not risen for ``patience`` epochs, or when the CPU or wall time is spent, within an
epoch too, and answer with the best epoch's weights. Prints one JSON line.
"""

import copy
import json
import logging
import sys
import time
import warnings
from typing import Any

import implicit
import numpy as np
import pandas as pd
import torch
from implicit.als import AlternatingLeastSquares
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from rectools.dataset import Dataset
from rectools.models import HSTUModel, SASRecModel
from rectools.models.nn.transformers.ligr import LiGRLayers
from scipy import sparse

VALIDATION_USERS = 2000


class Stopper(Callback):
    """Measure NDCG@10 after each epoch, keep the best weights, stop in time."""

    def __init__(
        self, *, patience: int, budget_s: float, wall_s: float, exclude_seen: bool
    ) -> None:
        self.patience, self.exclude_seen = patience, exclude_seen
        self.cpu_until = time.process_time() + budget_s
        self.wall_until = time.monotonic() + wall_s
        self.curve: list[float] = []
        self.best: dict[str, Any] = {}
        self.gains: list[float] = []
        self.why = "epochs"

    def on_validation_batch_end(
        self, _trainer: Trainer, module: LightningModule, _outputs: Any, batch: Any, *_: Any
    ) -> None:
        with torch.no_grad():
            tower = module.torch_model
            users = tower.encode_sessions(batch, module.item_embs)[:, -1, :]
            users = tower.similarity_module.session_tower_forward(users)
            items = tower.similarity_module.item_tower_forward(module.item_embs)
            scores = users @ items.T
            wanted = scores.gather(1, batch["y"])
            if self.exclude_seen:
                scores.scatter_(1, batch["x"], -torch.inf)
            scores[:, 0] = -torch.inf  # padding
            place = (scores > wanted).sum(dim=1) + 1
            gain = torch.where(place <= 10, 1 / torch.log2(place + 1.0), 0.0)
            self.gains.extend(gain.tolist())

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        # The epoch ends here, with its validation: what has been learnt so far is answered with.
        trainer.should_stop = self.is_spent()

    def is_spent(self) -> bool:
        """Say whether a limit is reached, and keep which."""
        if time.process_time() > self.cpu_until:
            self.why = "budget"
        elif time.monotonic() > self.wall_until:
            self.why = "wall"
        return self.why in ("budget", "wall")

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        # The validation of an epoch ends before this hook; that of the sanity check has no epoch.
        score = float(np.mean(self.gains)) if self.gains else 0.0
        self.gains = []
        if not self.curve or score > max(self.curve):
            self.best = copy.deepcopy(module.torch_model.state_dict())
        self.curve.append(score)
        since_best = len(self.curve) - 1 - int(np.argmax(self.curve))
        if not self.is_spent() and since_best >= self.patience:
            self.why = "no better"
        trainer.should_stop = self.why != "epochs"


def read_events(path: str) -> pd.DataFrame:
    frame = pd.read_parquet(path, columns=["user_id", "item_id", "timestamp"])
    stamps = frame.pop("timestamp")
    # Ties keep the file's order: RecTools ranks by time with method "first".
    unit = "s" if stamps.max() < 1e11 else "ms"
    return frame.assign(weight=1.0, datetime=pd.to_datetime(stamps, unit=unit))


def last_of_some(events: pd.DataFrame, *, seed: int) -> np.ndarray:
    """Return which events validate: the last one of up to 2,000 users with at least three."""
    place = events.groupby("user_id")["datetime"].rank(method="first", ascending=False)
    is_last = (place == 1) & (events.groupby("user_id")["item_id"].transform("size") > 2)
    users = events.loc[is_last, "user_id"].to_numpy()
    if len(users) > VALIDATION_USERS:
        users = np.random.default_rng(seed).choice(users, size=VALIDATION_USERS, replace=False)
    return (is_last & events["user_id"].isin(users)).to_numpy()


def run_sequence_model(job: dict[str, Any], events: pd.DataFrame, asked: list[str]) -> Any:
    seed_everything(job["seed"])
    stopper = Stopper(
        patience=job["patience"],
        budget_s=job["budget_s"],
        wall_s=job["wall_s"],
        exclude_seen=job["exclude_seen"],
    )

    def trainer() -> Trainer:
        return Trainer(
            max_epochs=job["max_epochs"], accelerator="cpu", enable_progress_bar=False,
            logger=False, enable_checkpointing=False, enable_model_summary=False,
            num_sanity_val_steps=0, callbacks=[stopper],
        )  # fmt: skip

    shape = {
        "n_factors": job["width"], "n_blocks": 2, "n_heads": 4, "session_max_len": job["length"],
        "lr": 1e-3, "dropout_rate": 0.2, "batch_size": job["batch_size"], "loss": job["loss"],
        "n_negatives": job["negatives"], "get_trainer_func": trainer,
        "get_val_mask_func": lambda frame: last_of_some(frame, seed=job["seed"]),
    }  # fmt: skip
    kind = {
        "sasrec": lambda: SASRecModel(**shape),
        "esasrec": lambda: SASRecModel(
            **shape, transformer_layers_type=LiGRLayers,
            transformer_layers_kwargs={
                "ff_factors_multiplier": 4, "bias_in_ff": True, "ff_activation": "swiglu",
            },
        ),
        "hstu": lambda: HSTUModel(
            **shape, relative_time_attention=True, relative_pos_attention=True,
            # Cosines need a temperature, or the softmax stays flat.
            lightning_module_kwargs={"logits_t": 0.05},
        ),
    }  # fmt: skip
    model = kind[job["model"]]()
    dataset = Dataset.construct(events)
    model.fit(dataset)
    [stopper] = [one for one in model.fit_trainer.callbacks if isinstance(one, Stopper)]
    model.torch_model.load_state_dict(stopper.best)
    context = None
    if job["model"] == "hstu":  # it wants to know when it is asked: when the training log ends
        context = pd.DataFrame({"user_id": asked, "datetime": events["datetime"].max()})
    recommended = model.recommend(
        users=asked, dataset=dataset, k=job["k"], filter_viewed=job["exclude_seen"],
        on_unsupported_targets="ignore", context=context,
    )  # fmt: skip
    lists = recommended.rename(columns={"rank": "position"})[["user_id", "position", "item_id"]]
    figures = {"epochs": len(stopper.curve), "stopped_by": stopper.why}
    figures["validation_ndcg"] = [round(value, 4) for value in stopper.curve]
    return lists, figures


def run_implicit(job: dict[str, Any], events: pd.DataFrame, asked: list[str]) -> Any:
    users, user_ids = pd.factorize(events["user_id"])
    items, item_ids = pd.factorize(events["item_id"])
    counts = sparse.csr_matrix((np.ones(len(events), np.float32), (users, items)))
    counts.sum_duplicates()
    trust = counts.copy()
    trust.data = 1 + job["alpha"] * counts.data
    model = AlternatingLeastSquares(
        factors=job["width"], regularization=job["l2"], iterations=15, random_state=job["seed"],
        num_threads=1,
    )  # fmt: skip
    model.fit(trust, show_progress=False)
    place = {user: row for row, user in enumerate(user_ids)}
    rows = np.asarray([place[user] for user in asked if user in place])
    found, _ = model.recommend(
        rows, trust[rows], N=job["k"], filter_already_liked_items=job["exclude_seen"]
    )
    lists = pd.DataFrame(
        {
            "user_id": np.repeat(np.asarray(user_ids)[rows], found.shape[1]),
            "position": np.tile(np.arange(1, found.shape[1] + 1), len(rows)),
            "item_id": np.asarray(item_ids)[found.ravel()],
        }
    )
    return lists[found.ravel() >= 0], {"implicit": implicit.__version__}


def main() -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    with open(sys.argv[1], encoding="utf-8") as file:  # noqa: PTH123
        job = json.load(file)
    events = read_events(job["events"])
    known = set(events["user_id"])
    asked = [user for user in pd.read_parquet(job["users"])["user_id"] if user in known]
    started = time.process_time()
    run = run_implicit if job["model"] == "implicit_ials" else run_sequence_model
    lists, figures = run(job, events, asked)
    lists.astype({"position": "int64"}).to_parquet(job["output"], index=False)
    figures["cpu_s"] = round(time.process_time() - started, 1)
    print(json.dumps(figures), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
