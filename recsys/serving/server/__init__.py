"""An exported folder answers over HTTP: JSON or Arrow in, click probabilities out; `recsys serve` starts it."""
