"""From files to batches: records, mixture, packing and the loader. Nothing here imports `model` or `training`."""
