"""Methods that are fitted outside a network, as scikit-learn estimators."""
