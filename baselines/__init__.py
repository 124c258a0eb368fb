"""Methods that every board must show: chance, the final model's gradients, influence functions, exact retraining."""
