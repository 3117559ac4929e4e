"""Methods that rewrite a trained model's weights once."""
