"""Scikit-learn estimators behind the methods of the `estimator` stage; imported when one is made, as they need scikit-learn."""
