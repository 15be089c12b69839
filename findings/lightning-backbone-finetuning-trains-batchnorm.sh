#!/usr/bin/env bash
# lightning 2.6.6: BackboneFinetuning(train_bn=False) trains the backbone's BatchNorm all the same.
#
# Most would expect: with train_bn=False the frozen backbone's BatchNorm neither counts statistics nor gets new weights.
# Behaviour: the callback's first freeze, before training, does not pass train_bn on (its default is True), so BatchNorm weight and bias
# stay trainable, and its running statistics move in every step before unfreeze_backbone_at_epoch.
#
# Output seen (lightning 2.6.6, torch 2.13.0, CPU):
#   changed although frozen with train_bn=False: ['1.bias', '1.num_batches_tracked', '1.running_mean', '1.running_var', '1.weight']
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -qq --disable-pip-version-check torch==2.13.0 numpy setuptools
"$folder/venv/bin/python" -m pip install -qq --disable-pip-version-check lightning==2.6.6
cd "$folder"
"$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PY'
import logging
import torch
from torch import nn
import lightning
from lightning.pytorch.callbacks import BackboneFinetuning

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
        self.head = nn.Linear(8, 1)
    def training_step(self, batch, _):
        x, y = batch
        return nn.functional.mse_loss(self.head(self.backbone(x)), y)
    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)

torch.manual_seed(0)
net = Net()
before = {name: tensor.clone() for name, tensor in net.backbone.state_dict().items()}
data = torch.utils.data.DataLoader(list(zip(torch.randn(16, 4), torch.randn(16, 1))), batch_size=8)
trainer = lightning.Trainer(
    max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    callbacks=[BackboneFinetuning(unfreeze_backbone_at_epoch=5, train_bn=False)],
)
trainer.fit(net, data)
changed = sorted(name for name, tensor in net.backbone.state_dict().items() if not torch.equal(tensor, before[name]))
print("changed although frozen with train_bn=False:", changed)
assert changed == ["1.bias", "1.num_batches_tracked", "1.running_mean", "1.running_var", "1.weight"]
PY
