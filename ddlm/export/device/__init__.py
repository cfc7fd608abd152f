"""What ships beside the runtime and is no Python: shell, requirements, a systemd unit, the device's README."""
