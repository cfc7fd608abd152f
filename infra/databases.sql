-- One for each server of the control plane.
CREATE DATABASE prefect;
CREATE DATABASE mlflow;
