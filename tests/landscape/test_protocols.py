import pytest
import torch
from problems import build, dense_hessian, in_batches
from torch import nn

import landscape as ls
from landscape import protocols
from landscape.protocols import paper_hessian


def test_the_papers_matrix_is_the_sum_of_the_batches_hessians_over_weights(monkeypatch):
    monkeypatch.setattr(protocols, "PAPER_BATCH_SIZE", 8)  # batches of 8, 8 and 5
    net, inputs, targets = build("batch_norm_net")
    objective = ls.Objective(net, nn.CrossEntropyLoss(), in_batches(inputs, targets, (21,)))
    found = paper_hessian(objective)
    parts = [ls.Objective(net, nn.CrossEntropyLoss(), [batch]) for batch in in_batches(inputs, targets, (8, 8, 5))]
    whole = sum(dense_hessian(part) for part in parts)
    keep = torch.cat([torch.full((s.numel(),), len(s) > 1) for s in objective.shapes.values()])
    truth = whole[keep][:, keep]
    assert found.size == int(keep.sum())
    products = torch.stack([found.matvec(v) for v in torch.eye(found.size, dtype=torch.float64)])
    torch.testing.assert_close(products, truth, rtol=1e-8, atol=1e-10)
    assert (found.settings["protocol"], found.settings["num_batches"]) == ("paper", 3)
    assert found.settings["num_examples"] == 21
    assert found.loss == pytest.approx(sum(part.evaluate().loss for part in parts) / 3)


def test_what_the_papers_protocol_is_not_of_is_refused():
    net, inputs, targets = build("tied")
    wrong = ls.Objective(net, nn.MSELoss(), [(inputs, torch.zeros(21, 3, dtype=torch.float64))])
    weighted = ls.Objective(net, nn.CrossEntropyLoss(label_smoothing=0.1), in_batches(inputs, targets))
    for objective in (wrong, weighted):
        with pytest.raises(ValueError, match="is of the plain cross-entropy of single examples"):
            paper_hessian(objective)
    for p in net.parameters():
        p.requires_grad_(p.ndim == 1)
    with pytest.raises(ValueError, match="parameters with two dimensions or more: there are none"):
        paper_hessian(ls.Objective(net, nn.CrossEntropyLoss(), in_batches(inputs, targets)))
