"""What a job is made of, as types: model, adapter, data, hyperparameters. Standard library only, for all to share."""
