"""Where a study runs: packing of trials on hardware, and the Ray session around it."""
