"""One small method of each stage, as a third party would ship them."""
