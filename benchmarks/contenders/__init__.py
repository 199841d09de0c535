"""Programs that do walstream's work by other means. Each is started by itself, with one JSON argument: `job.Job`."""
