"""One process's share of a batch to its loss: the module that data-parallel training wraps.

Shapes: B windows, L places, N targets, S negatives, V items, D width.
"""

import torch
from torch import Tensor, nn

from rec.models.full_softmax import full_softmax
from rec.models.losses import generalised_bce, sampled_softmax
from rec.models.negatives import own_items
from rec.models.sequence_model import SequenceModel
from rec.models.training_config import LossName


class TrainingStep(nn.Module):
    """Compute the weighted sum of the losses of all targets of some windows."""

    def __init__(
        self,
        model: SequenceModel,
        *,
        loss: LossName,
        gbce_calibration: float,
        masks_own_items: bool,
        is_bfloat16: bool,
        catalog: Tensor,
    ) -> None:
        """Hold the towers; ``catalog``, int64 ``(V',)``, is what the full softmax runs over."""
        super().__init__()
        self.catalog: Tensor = nn.Buffer(catalog, persistent=False)
        places = torch.zeros(model.items.num_items + 1, dtype=torch.int64)
        places[catalog] = torch.arange(1, len(catalog) + 1)
        self.places: Tensor = nn.Buffer(places, persistent=False)
        self.model = model
        self.loss = loss
        self.gbce_calibration = gbce_calibration
        self.masks_own_items = masks_own_items
        self.is_bfloat16 = is_bfloat16

    def forward(
        self,
        tokens: Tensor,
        timestamps_s: Tensor,
        event_types: Tensor,
        targets: Tensor,
        target_weights: Tensor,
        sources: Tensor,
        negatives: Tensor,
        log_expected: Tensor,
    ) -> Tensor:
        """Return the sum, a scalar.

        Args:
            tokens: int64 ``(B, L)``, and so are times, event types, targets and sources: see
                :class:`rec.models.batches.Batch`.
            timestamps_s: seconds.
            event_types: codes + 1.
            targets: 0 where there is none to learn.
            target_weights: float32 ``(B, L)``.
            sources: the place whose e_u predicts a target.
            negatives: int64 ``(S,)``; unused by the full softmax.
            log_expected: float32 ``(S,)``.
        """
        tower, scale = self.model.items, self.model.scale
        is_target = targets > 0
        # The losses stay in float32: a difference of two logits has no digits to lose.
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=self.is_bfloat16):
            states = self.model(tokens, timestamps_s, event_types)  # (B, L, D)
            states = states.gather(1, sources.unsqueeze(-1).expand(-1, -1, states.shape[-1]))
            users, items = states[is_target], targets[is_target]  # (N, D), (N,)
            if self.loss == "full_softmax":
                catalog = tower(self.catalog)
            else:
                positives, others = tower(items), tower(negatives)
        if self.loss == "full_softmax":
            losses = full_softmax(users, catalog, self.places[items], scale=scale)
        else:
            is_false = items.unsqueeze(1) == negatives.unsqueeze(0)  # (N, S)
            if self.masks_own_items:
                windows = is_target.nonzero()[:, 0]
                is_false = is_false | own_items(tokens, targets, negatives)[windows]
            if self.loss == "gbce":
                losses = generalised_bce(
                    users,
                    positives,
                    others,
                    is_false=is_false,
                    scale=scale,
                    num_items=tower.num_items,
                    calibration=self.gbce_calibration,
                )
            else:
                losses = sampled_softmax(
                    users,
                    positives,
                    others,
                    is_false=is_false,
                    scale=scale,
                    log_expected=log_expected if self.loss == "mixed_softmax" else None,
                )
        return (losses * target_weights[is_target]).sum()
