"""What may vary: functions from an Optuna trial to a config."""
