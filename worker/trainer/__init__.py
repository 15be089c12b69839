from worker.trainer import quantiser

quantiser.load()
